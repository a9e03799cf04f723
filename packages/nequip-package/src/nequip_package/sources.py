"""Where the source of a module is, found without importing the module.

So code that cannot be imported here (it needs a library of a machine with a GPU, say) is packaged
like any other, and looking runs nothing.
"""

from __future__ import annotations

import importlib.util
import sys
import tokenize
from collections.abc import Iterable
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
        self._found: dict[str, Source | None] = {}

    def in_base(self, module: str) -> Source | None:
        """Return the source that the base package holds for `module`, or None."""
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
        if self.in_base(module) or module in self.base_externals or module in sys.modules:
            return True
        if self.installed(module):
            return True
        try:
            return importlib.util.find_spec(module) is not None
        except Exception:
            # A parent is absent, is no package, or fails when imported.
            return False


def _read_installed(module: str) -> Source | None:
    for folder, name in _places(module):
        for path, is_package in ((folder / name / "__init__.py", True), (folder / name, False)):
            file = path if is_package else path.with_name(f"{name}.py")
            if file.is_file():
                return Source(_text(file), is_package)
    loaded = sys.modules.get(module)
    file_name = getattr(loaded, "__file__", None)
    if file_name and str(file_name).endswith(".py"):
        return Source(_text(Path(file_name)), hasattr(loaded, "__path__"))
    return None


def _places(module: str) -> Iterable[tuple[Path, str]]:
    """Yield the folders that may hold `module`, with its last name, importing nothing."""
    top, _, rest = module.partition(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return
    if spec is None:
        return
    if not rest:
        if spec.origin and spec.origin.endswith(".py"):
            file = Path(spec.origin)
            yield (file.parent.parent, top) if file.stem == "__init__" else (file.parent, top)
        return
    *parents, name = rest.split(".")
    for location in spec.submodule_search_locations or ():
        yield Path(location).joinpath(*parents), name


def _text(file: Path) -> str:
    # Honours an encoding comment; every kind of line end becomes one newline.
    with tokenize.open(file) as opened:
        return opened.read()
