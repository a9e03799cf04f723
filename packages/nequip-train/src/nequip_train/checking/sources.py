"""Finding what a dotted path names in the source files of installed packages, without importing.

Importing torch and Lightning takes seconds; reading the few files in which a config's classes are
written takes a fraction of one. Only what a file says at its top level is understood: definitions,
imports, plain assignments. Whatever else may be there is `Unclear`, never wrong.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Absent", "Found", "Module", "Sources", "Unclear", "dotted"]

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_MAX_HOPS = 40
# A module that does one of these at its top level may have names that its text does not show.
_DYNAMIC_CALLS = {"globals", "vars", "exec", "setattr", "locals"}


@dataclass
class Module:
    """A module as its file says.

    Attributes:
        name: dotted name.
        folders: where its submodules are; empty for a module that is no package.
        bindings: top-level name -> what it is bound to, None if that is not certain.
        stars: modules of which all names are imported.
        is_dynamic: whether there may be further names.
        is_readable: whether there was a source file to read.
    """

    name: str
    folders: list[str]
    bindings: dict[str, ast.AST | tuple[str, str] | None] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    is_dynamic: bool = False
    is_readable: bool = True


@dataclass(frozen=True)
class Found:
    """What a path names: a definition or an expression that is assigned, and the module of it."""

    node: ast.AST
    module: Module


@dataclass(frozen=True)
class Absent:
    """A path names nothing: `parent`, a module or "", has no `name`, but has `known`."""

    parent: str
    name: str
    known: tuple[str, ...]


@dataclass(frozen=True)
class Unclear:
    """The text does not tell; only an import can."""


Answer = Found | Absent | Unclear


class Sources:
    """The source files of installed packages, each read once."""

    def __init__(self) -> None:
        self._modules: dict[str, Module | None] = {}

    def find(self, path: str) -> Answer:
        """Return what a dotted path names."""
        return self._find(path, 0)

    def lookup(self, module: Module, name: str, hops: int = 0) -> Answer:
        """Return what `name` means at the top level of a module.

        Args:
            module: where the name is used.
            name: it, possibly dotted.
            hops: number of imports that were followed already.
        """
        first, _, rest = name.partition(".")
        bound = self._binding(module, first, hops)
        if not rest or not isinstance(bound, Found):
            return bound
        return self._below(bound, rest, hops)

    def module(self, name: str) -> Module | None:
        """Return a module, None if there is none of the name."""
        if name not in self._modules:
            self._modules[name] = self._load(name)
        return self._modules[name]

    def _find(self, path: str, hops: int) -> Answer:
        if hops > _MAX_HOPS:
            return Unclear()
        parts = path.split(".")
        module = self.module(parts[0])
        if module is None:
            return Absent("", parts[0], ())
        for index, part in enumerate(parts[1:], start=1):
            below = self.module(f"{module.name}.{part}")
            if below is None:
                rest = ".".join(parts[index + 1 :])
                bound = self._binding(module, part, hops)
                return self._below(bound, rest, hops) if rest else bound
            module = below
        return Found(ast.Module([], []), module)

    def _below(self, bound: Answer, rest: str, hops: int) -> Answer:
        """Return what the dotted `rest` names inside of what was found."""
        if not isinstance(bound, Found):
            return bound
        if isinstance(bound.node, ast.Module):
            return self._find(f"{bound.module.name}.{rest}", hops + 1)
        if isinstance(bound.node, ast.ClassDef) and "." not in rest:
            for node in bound.node.body:
                if isinstance(node, Definition) and node.name == rest:
                    return Found(node, bound.module)
        return Unclear()

    def _binding(self, module: Module, name: str, hops: int) -> Answer:
        if not module.is_readable or hops > _MAX_HOPS:
            return Unclear()
        if name in module.bindings:
            bound = module.bindings[name]
            if bound is None:
                return Unclear()
            if isinstance(bound, tuple):
                source, original = bound
                return self._find(f"{source}.{original}" if original else source, hops + 1)
            if isinstance(bound, ast.Name | ast.Attribute) and (alias := dotted(bound)):
                if alias.partition(".")[0] == name:
                    return Unclear()
                return self.lookup(module, alias, hops + 1)
            return Found(bound, module)
        unclear = module.is_dynamic
        known = [known for known in module.bindings if not known.startswith("_")]
        for star in module.stars:
            owner = self.module(star)
            if owner is None:
                unclear = True
                continue
            answer = self._binding(owner, name, hops + 1)
            if isinstance(answer, Found):
                return answer
            unclear = unclear or isinstance(answer, Unclear)
            known += answer.known if isinstance(answer, Absent) else ()
        return Unclear() if unclear else Absent(module.name, name, tuple(known))

    def _load(self, name: str) -> Module | None:
        parent, _, _ = name.rpartition(".")
        if name in sys.modules and getattr(sys.modules[name], "__spec__", None) is None:
            # Made in memory, as a notebook is: there is no source to read.
            return Module(name, [], is_readable=False)
        try:
            if not parent:
                spec = importlib.util.find_spec(name)
            else:
                owner = self.module(parent)
                if owner is None or not owner.folders:
                    return None
                spec = importlib.machinery.PathFinder.find_spec(name, owner.folders)
        except (ImportError, ValueError, AttributeError):
            return None
        if spec is None:
            return None
        module = Module(name, list(spec.submodule_search_locations or ()))
        if spec.origin is None or not spec.origin.endswith(".py"):
            # A folder without __init__.py has nothing but its submodules.
            module.is_readable = spec.origin is None and bool(module.folders)
            return module
        try:
            tree = ast.parse(Path(spec.origin).read_bytes())
        except (OSError, SyntaxError, ValueError):
            module.is_readable = False
            return module
        package = name if module.folders else parent
        _bind(module, package, tree.body, certain=True)
        return module


def dotted(node: ast.AST) -> str:
    """Return the dotted name that an expression is, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def _bind(module: Module, package: str, body: list[ast.stmt], certain: bool) -> None:
    """Record what the statements of a module bind."""
    for node in body:
        for name, bound in _bound(node, package):
            is_second = name in module.bindings and not certain
            module.bindings[name] = None if is_second else bound
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            module.stars.append(_absolute(node, package))
        elif isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
            module.is_dynamic = True
        elif isinstance(node, ast.Expr | ast.For | ast.While):
            module.is_dynamic = module.is_dynamic or _is_dynamic(node)
        if isinstance(node, ast.If):
            if dotted(node.test).rpartition(".")[2] != "TYPE_CHECKING":
                _bind(module, package, node.body, certain=False)
            _bind(module, package, node.orelse, certain=False)
        elif isinstance(node, ast.Try):
            for part in (node.body, *(h.body for h in node.handlers), node.orelse, node.finalbody):
                _bind(module, package, part, certain=False)
        elif isinstance(node, ast.With):
            _bind(module, package, node.body, certain=certain)


def _bound(node: ast.stmt, package: str) -> Iterator[tuple[str, ast.AST | tuple[str, str] | None]]:
    """Yield the names that one statement binds, and to what."""
    if isinstance(node, Definition):
        yield node.name, node
    elif isinstance(node, ast.Import):
        for alias in node.names:
            if alias.asname:
                yield alias.asname, (alias.name, "")
            else:
                first = alias.name.partition(".")[0]
                yield first, (first, "")
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            if alias.name != "*":
                yield alias.asname or alias.name, (_absolute(node, package), alias.name)
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
            elif isinstance(target, ast.Tuple | ast.List):
                yield from ((n.id, None) for n in target.elts if isinstance(n, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        if node.value is not None:
            yield node.target.id, node.value
    elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, None


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the module of a ``from`` import; a relative one is below `package`."""
    if not node.level:
        return str(node.module)
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _is_dynamic(node: ast.AST) -> bool:
    called = (dotted(call.func) for call in ast.walk(node) if isinstance(call, ast.Call))
    return any(name.rpartition(".")[2] in _DYNAMIC_CALLS for name in called)
