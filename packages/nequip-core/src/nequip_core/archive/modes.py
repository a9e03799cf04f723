"""Packaging modes: which forms of its models a package holds.

A mode is a name for `nequip-package build --mode`; it stands for a list of model forms. A form is
what the model loader is asked for (``eager``), and the name of its pickle in the package,
``model/<form>_model.pkl``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nequip_core.errors import ConfigError, PackagingError, closest

__all__ = ["DEFAULT_MODE", "forms_of_mode", "packaging_modes", "register_packaging_mode"]

DEFAULT_MODE = "nequip"
"""The mode of a build that names none."""
_REQUIRED_FORM = "eager"

_registered: dict[str, Callable[[], Sequence[str]]] = {DEFAULT_MODE: lambda: [_REQUIRED_FORM]}


def register_packaging_mode(name: str, fn: Callable[[], Sequence[str]]) -> None:
    """Offer a packaging mode; extension packages call this when they are imported.

    Registering the same function again under the same name changes nothing.

    Args:
        name: what ``nequip-package build --mode`` takes.
        fn: returns the model forms to package; ``eager`` must be among them. It is called when the
            mode is used, so it may look at the machine.

    Raises:
        PackagingError: the name is taken by another function, or `fn` cannot be called.
    """
    if not callable(fn):
        raise PackagingError(
            f"packaging mode '{name}' needs a function that returns its forms, "
            f"found {type(fn).__name__}"
        )
    if _registered.setdefault(name, fn) is not fn:
        raise PackagingError(
            f"packaging mode '{name}' is already registered; register it under another name"
        )


def forms_of_mode(name: str = DEFAULT_MODE) -> list[str]:
    """Return the model forms that a mode stands for, ``eager`` first, each once.

    Raises:
        ConfigError: there is no such mode.
        PackagingError: its function returns something else than forms with ``eager``.
    """
    if name not in _registered:
        known = sorted(_registered)
        raise ConfigError(
            f"no packaging mode '{name}' (known: {', '.join(known)}){closest(name, known)}; "
            "an extension package registers modes when it is imported"
        )
    forms = _registered[name]()
    if isinstance(forms, str) or not all(isinstance(form, str) for form in forms):
        raise PackagingError(
            f"packaging mode '{name}' must return a list of names of forms, found {forms!r}"
        )
    if _REQUIRED_FORM not in forms:
        raise PackagingError(
            f"packaging mode '{name}' must hold '{_REQUIRED_FORM}', found {list(forms)}"
        )
    return list(dict.fromkeys([_REQUIRED_FORM, *forms]))


def packaging_modes() -> dict[str, list[str]]:
    """Return every registered mode with its forms, by name."""
    return {name: forms_of_mode(name) for name in sorted(_registered)}
