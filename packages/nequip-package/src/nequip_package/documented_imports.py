"""Imports of the documented ``nequip.*`` names in packaged code, and modules that serve them.

The facade distribution looks names up in a table when they are used. Inside an archive nothing is
looked up: for every documented module that packaged code names, a module of plain imports is
written, with only the names that are used.
"""

from __future__ import annotations

import ast
import importlib
import sys
from dataclasses import dataclass, field

from nequip_core.documented_names import DOCUMENTED_NAMES, canonical_name
from nequip_package.import_statements import ImportStatement
from nequip_package.sources import Source, SourceFinder

__all__ = ["DocumentedImports", "is_documented"]

_TOP = "nequip"
_MODULES = {name.rpartition(".")[0] for name in DOCUMENTED_NAMES}
_PARENTS = {
    ".".join(parts[:depth])
    for parts in (name.split(".") for name in _MODULES)
    for depth in range(1, len(parts) + 1)
}
_VERSION = "__version__"


def is_documented(module: str) -> bool:
    """Return whether a dotted name lies below the documented top level, ``nequip``."""
    return module == _TOP or module.startswith(f"{_TOP}.")


@dataclass
class _Baked:
    """The names of one documented module: name -> (our module, our name or None for the module)."""

    sure: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    lazy: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)


class DocumentedImports:
    """Collects the documented names that packaged code uses.

    Args:
        finder: tells what is a module.
    """

    def __init__(self, finder: SourceFinder) -> None:
        self._finder = finder
        self._baked: dict[str, _Baked] = {}

    def add(
        self, statement: ImportStatement, tree: ast.Module, sure: bool
    ) -> tuple[list[tuple[str, bool]], list[str]]:
        """Note one import statement.

        Args:
            statement: an import of a documented module or of names in one.
            tree: the module that it stands in.
            sure: whether it runs for certain when that module is imported.

        Returns:
            our modules that it needs, each with `sure`, and reasons why it cannot be served.
        """
        names, reasons = _used_names(statement, tree)
        targets = []
        for module, name in names:
            try:
                targets.append((self._add_name(module, name, sure), sure))
            except LookupError as error:
                reasons.append(str(error))
        return [target for target in targets if target[0]], reasons

    def sources(self) -> dict[str, Source]:
        """Return a module of plain imports for each documented module that is used."""
        return {module: Source(_text(module, baked), True) for module, baked in self._baked.items()}

    def _add_name(self, module: str, name: str, sure: bool) -> str:
        """Note one name and return our module that defines it, empty for a constant."""
        baked = self._baked.setdefault(module, _Baked())
        if name == _VERSION:
            baked.constants[name] = str(importlib.import_module(module).__version__)
            return ""
        ours = _ours(module, name)
        _require_same_object(module, name, ours)
        owner, _, attribute = ours.rpartition(".")
        place: tuple[str, str | None] = (owner, attribute)
        needed = owner
        if self._finder.is_module(ours):
            place, needed = (ours, None), ours
        if sure:
            baked.sure[name] = place
            baked.lazy.pop(name, None)
        elif name not in baked.sure:
            baked.lazy[name] = place
        return needed


def _ours(module: str, name: str) -> str:
    path = f"{module}.{name}"
    ours = canonical_name(path)
    if ours == path:
        raise LookupError(
            f"'{path}' is not among the documented names that this version provides; "
            "import it from where it is defined"
        )
    return ours


def _require_same_object(module: str, name: str, ours: str) -> None:
    """Check that the name stands for our object here, not for another distribution's."""
    owner, _, attribute = ours.rpartition(".")
    documented, defining = sys.modules.get(module), sys.modules.get(owner)
    if documented is None or not hasattr(defining, attribute):
        return  # nothing has used it yet
    if getattr(documented, name, None) is not getattr(defining, attribute):
        raise LookupError(
            f"'{module}.{name}' comes from another distribution named '{_TOP}' here, not from "
            "this project's; install this project's facade"
        )


def _used_names(
    statement: ImportStatement, tree: ast.Module
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return (documented module, name) for everything that a statement gives access to."""
    module, name = statement.module, statement.name
    if name == "*":
        prefix = f"{module}."
        every = [path.removeprefix(prefix) for path in DOCUMENTED_NAMES if path.startswith(prefix)]
        return [(module, name) for name in every if "." not in name], []
    if name is not None and f"{module}.{name}" not in _PARENTS:
        return [(module, name)], []
    # A module is bound to a variable: what is used are the attributes of that variable.
    whole = f"{module}.{name}" if name is not None else module
    if whole in DOCUMENTED_NAMES:
        return [(module, name)] if name is not None else [], []
    variable = statement.bound_to or _TOP
    stands_for = whole if name is not None or statement.bound_to != _TOP else _TOP
    return _attributes_of(variable, stands_for, tree)


def _attributes_of(
    variable: str, stands_for: str, tree: ast.Module
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the documented names that are read from a variable which stands for a module."""
    chains = {id(node): _chain(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    inner = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }  # parts of longer chains
    used: dict[tuple[str, str], None] = {}
    reasons = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            chain = chains[id(node)]
            if not chain or chain[0] != variable:
                continue
            path, rest = stands_for, chain[1:]
            while rest and f"{path}.{rest[0]}" in _PARENTS:
                path, rest = f"{path}.{rest[0]}", rest[1:]
            if rest:
                used[path, rest[0]] = None
        elif isinstance(node, ast.Name) and node.id == variable and id(node) not in inner:
            reasons.append(
                f"uses the module '{stands_for}' as a value in line {node.lineno}; import the "
                "names that are needed"
            )
    return list(used), reasons


def _chain(node: ast.expr) -> list[str]:
    """Return ``["a", "b", "c"]`` for ``a.b.c``, an empty list for what is no chain of names."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        start = _chain(node.value)
        return [*start, node.attr] if start else []
    return []


def _text(module: str, baked: _Baked) -> str:
    lines = [f'"""What packaged code uses of the documented names of {module}."""', ""]
    lines += [f"{name} = {value!r}" for name, value in sorted(baked.constants.items())]
    lines += [_line(name, *place) for name, place in sorted(baked.sure.items())]
    if baked.lazy:
        lines += ["", "", "def __getattr__(name):"]
        for name, place in sorted(baked.lazy.items()):
            lines += [
                f"    if name == {name!r}:",
                f"        {_line(name, *place)}",
                "",
                f"        return {name}",
            ]
        lines.append("    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')")
    return "\n".join(lines) + "\n"


def _line(name: str, module: str, attribute: str | None) -> str:
    if attribute is None:
        module, _, attribute = module.rpartition(".")
    alias = "" if attribute == name else f" as {name}"
    return f"from {module} import {attribute}{alias}"
