"""Where the source of a module is, found without importing the module.

So code that cannot be imported here (it needs a library of a machine with a GPU, say) is packaged
like any other, and looking runs nothing.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.package import PackageImporter

__all__ = ["Source", "SourceFinder", "demangled", "is_mangled"]

_MANGLED = "<torch_package_"


def is_mangled(module: str) -> bool:
    """Return whether this is the ``__module__`` of a class that came out of a package."""
    return module.startswith(_MANGLED)


def demangled(module: str) -> str:
    """Return a module's name as it is inside its package, any other name unchanged."""
    return module.partition(">.")[2] if is_mangled(module) else module


@dataclass(frozen=True)
class Source:
    """The source of one module.

    Attributes:
        text: the code.
        is_package: whether modules lie below it, ``__init__.py``.
        from_base: whether it is the code of the package that a model came out of.
    """

    text: str
    is_package: bool
    from_base: bool = False


class SourceFinder:
    """Finds sources in the package that a model came out of, then in the environment.

    Args:
        base: the importer of that package, None for a model of installed code.
    """

    def __init__(self, base: PackageImporter | None = None) -> None:
        self._base = base
        self._members = set(base.zip_reader.get_all_records()) if base is not None else set()
        self.base_externals = frozenset(base.extern_modules) if base is not None else frozenset()
        self.base_tops = frozenset(
            member.removesuffix(".py").partition("/")[0]
            for member in self._members
            if member.endswith(".py")
        )
        self._of_base: dict[str, Source | None] = {}
        self._found: dict[str, Source | None] = {}

    def in_base(self, module: str) -> Source | None:
        """Return the source that the base package holds for `module`, or None."""
        if module not in self._of_base:
            self._of_base[module] = self._read_base(module)
        return self._of_base[module]

    def _read_base(self, module: str) -> Source | None:
        path = module.replace(".", "/")
        for member, is_package in ((f"{path}/__init__.py", True), (f"{path}.py", False)):
            if member in self._members and self._base is not None:
                text = self._base.zip_reader.get_record(member).decode()
                return Source(text, is_package, from_base=True)
        return None

    def installed(self, module: str) -> Source | None:
        """Return the source of `module` in this environment; None: there is none in Python."""
        if module not in self._found:
            self._found[module] = _read_installed(module)
        return self._found[module]

    def is_module(self, module: str) -> bool:
        """Return whether `module` can be named in an import statement here."""
        return (
            self.in_base(module) is not None
            or module in self.base_externals
            or module in sys.modules
            or _spec(module) is not None
        )


def _read_installed(module: str) -> Source | None:
    spec = _spec(module)
    if spec is None and module in sys.modules:
        spec = sys.modules[module].__spec__
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return Source(_text(Path(spec.origin)), spec.submodule_search_locations is not None)


def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    """Return where a module is, without importing its parents."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec


def _text(file: Path) -> str:
    # Honours an encoding comment; every kind of line end becomes one newline.
    with tokenize.open(file) as opened:
        return opened.read()
