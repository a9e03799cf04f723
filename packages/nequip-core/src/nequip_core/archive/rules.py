"""Packaging rules: which imports of packaged code are copied, expected outside, or mocked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nequip_core.errors import PackagingError

__all__ = [
    "CORE_RULES",
    "PackagingRules",
    "register_libraries_as_external_for_packaging",
    "registered_rules",
]


@dataclass(frozen=True)
class PackagingRules:
    """What to do with imports, by top-level module name; submodules follow their top level.

    Attributes:
        internal: the source is copied into the package.
        external: imported from the reader's environment; the version is recorded.
        mock: the import succeeds, any use raises.
        requirements: for some external modules the versions that do, as a PEP 440 specifier:
            ``{"numpy": ">=1.26"}``. Recorded in the package, compared by its reader.
    """

    internal: tuple[str, ...] = ()
    external: tuple[str, ...] = ()
    mock: tuple[str, ...] = ()
    requirements: Mapping[str, str] = field(default_factory=dict, hash=False)


# Standard library and torch are external without a rule, but torch.package wants `io` and `sys`
# declared. The kernel libraries are imported by the functions that use them, never on load.
CORE_RULES = PackagingRules(
    internal=("nequip_core",),
    external=(
        "cuequivariance",
        "cuequivariance_torch",
        "io",
        "nequip_kernels",
        "numpy",
        "openequivariance",
        "opt_einsum_fx",
        "packaging",
        "sys",
        "triton",
    ),
    mock=("matplotlib",),
    requirements={"numpy": ">=1.26", "packaging": ">=23"},
)

_registered_external: set[str] = set()
_registered_mock: set[str] = set()


def register_libraries_as_external_for_packaging(
    extern_modules: Iterable[str] | None = None, mock_modules: Iterable[str] | None = None
) -> None:
    """Declare further libraries external or mocked; extension packages call this when imported.

    Args:
        extern_modules: top-level module names that packaged code imports from its environment.
        mock_modules: top-level module names whose import succeeds and whose use raises.

    Raises:
        PackagingError: a module would be both.
    """
    external = _registered_external | set(extern_modules or ())
    mock = _registered_mock | set(mock_modules or ())
    if external & mock:
        raise PackagingError(f"both external and mock for packaging: {sorted(external & mock)}")
    _registered_external.update(external)
    _registered_mock.update(mock)


def registered_rules() -> PackagingRules:
    """Return the rules that `register_libraries_as_external_for_packaging` has collected."""
    return PackagingRules(
        external=tuple(sorted(_registered_external)), mock=tuple(sorted(_registered_mock))
    )
