"""What a source file would do, read from its syntax tree. Nothing is compiled or run."""

from __future__ import annotations

import ast
import builtins
import warnings
from dataclasses import dataclass, field

from nequip_package.notable_names import HIDING_ATTRIBUTES, holds_notable, notable

__all__ = ["SourceReport", "Use", "absolute_name", "audit_source"]

_LARGEST_SOURCE = 4 * 2**20  # bytes; a syntax tree takes some hundred times as many
_LONGEST_CALL = 1000  # characters


@dataclass(frozen=True)
class Use:
    """A name that reaches out of a computation.

    Attributes:
        line: where it stands.
        name: dotted name, e.g. ``os.system``.
        reaches: what that does, e.g. ``starts processes``.
        inside: the function that has to be called for it; empty where importing is enough.
    """

    line: int
    name: str
    reaches: str
    inside: str


@dataclass
class SourceReport:
    """What a source file would do.

    Attributes:
        error: why it could not be read, or empty.
        imports_on_load: modules that importing it imports.
        imports_later: modules that its functions import.
        calls_on_load: line and text of every call that importing it makes.
        uses: names that reach out of a computation.
        imported: names that it holds only because it imports them -> what they are.
    """

    error: str = ""
    imports_on_load: set[str] = field(default_factory=set)
    imports_later: set[str] = field(default_factory=set)
    calls_on_load: list[tuple[int, str]] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    imported: dict[str, str] = field(default_factory=dict)


def audit_source(content: bytes, module: str, is_package: bool) -> SourceReport:
    """Return what a source file would do.

    Args:
        content: the file.
        module: its dotted name.
        is_package: it is an ``__init__.py``.
    """
    if len(content) > _LARGEST_SOURCE:
        return SourceReport(error=f"{len(content)} bytes, read are up to {_LARGEST_SOURCE}")
    try:
        # Only the syntax tree is made: no code object, nothing that could run.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a parser says of odd literals is no news here
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return SourceReport(error=f"{type(error).__name__}: {error}")
    visitor = _Visitor(module if is_package else module.rpartition(".")[0])
    visitor.names = _imported_names(tree, visitor.parent)
    visitor.defined = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    visitor.report.imported = {
        name: origin for name, origin in visitor.names.items() if name not in visitor.defined
    }
    try:
        visitor.visit(tree)
    except RecursionError as error:
        return SourceReport(error=f"nested too deeply: {error}")
    visitor.report.calls_on_load.sort()
    return visitor.report


def absolute_name(node: ast.ImportFrom, parent: str) -> str:
    """Return the dotted name of the module that a ``from`` statement names.

    Args:
        node: the statement.
        parent: the package in which it stands.
    """
    if not node.level:
        return node.module or ""
    parts = parent.split(".")
    base = ".".join(parts[: max(len(parts) - node.level + 1, 0)])
    return ".".join(part for part in (base, node.module) if part)


def _imported_names(tree: ast.AST, parent: str) -> dict[str, str]:
    """Return what the names of a file stand for, wherever in the file they are imported."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            origin = absolute_name(node, parent)
            for alias in node.names:
                names[alias.asname or alias.name] = f"{origin}.{alias.name}"
    return names


class _Visitor(ast.NodeVisitor):
    """Walks a file and tells apart what runs on import from what a function does."""

    def __init__(self, parent: str) -> None:
        self.parent = parent
        self.names: dict[str, str] = {}
        self.defined: set[str] = set()
        self.report = SourceReport()
        self.functions: list[str] = []
        self.seen: set[Use] = set()

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        # Decorators, defaults and annotations are evaluated where the function is defined.
        for part in [*node.decorator_list, node.args, node.returns]:
            if part is not None:
                self.visit(part)
        self.functions.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.functions.pop()

    visit_FunctionDef = _visit_function  # noqa: N815 - ast names it
    visit_AsyncFunctionDef = _visit_function  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        self.functions.append("lambda")
        self.visit(node.body)
        self.functions.pop()

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._import(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        origin = absolute_name(node, self.parent)
        self._import(origin)
        for alias in node.names:
            name = f"{origin}.{alias.name}"
            if alias.name == "*" and not node.level and holds_notable(origin):
                self._found(node.lineno, name, "may hide code")
            else:
                self._use(node.lineno, name)

    def visit_Call(self, node: ast.Call) -> None:
        if not self.functions:
            text = ast.unparse(node)
            text = text if len(text) <= _LONGEST_CALL else f"{text[: _LONGEST_CALL - 3]}..."
            self.report.calls_on_load.append((node.lineno, text))
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) > 1:
            self._getattr(node.lineno, node.args[0], node.args[1])
        self.generic_visit(node)

    def _getattr(self, line: int, target: ast.expr, attribute: ast.expr) -> None:
        """Follow ``getattr(os, "system")``, and report it where the name is computed."""
        dotted = _dotted(target) or ""
        first, _, rest = dotted.partition(".")
        module = ".".join(part for part in (self.names.get(first), rest) if part)
        if isinstance(attribute, ast.Constant) and isinstance(attribute.value, str):
            if first in self.names:
                self._use(line, f"{module}.{attribute.value}")
        elif (first in self.names and holds_notable(module)) or isinstance(attribute, ast.BinOp):
            self._found(line, ast.unparse(attribute), "may hide code")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in HIDING_ATTRIBUTES:
            self._found(node.lineno, node.attr, "may hide code")
        dotted = _dotted(node)
        if dotted is None:
            self.generic_visit(node)
            return
        first, _, rest = dotted.partition(".")
        if first in self.names:
            self._use(node.lineno, f"{self.names[first]}.{rest}")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in self.names:
            self._use(node.lineno, self.names[node.id])
        elif node.id == "__builtins__":
            self._found(node.lineno, node.id, "may hide code")
        elif node.id not in self.defined and hasattr(builtins, node.id):
            self._use(node.lineno, f"builtins.{node.id}")

    def _import(self, module: str) -> None:
        where = self.report.imports_later if self.functions else self.report.imports_on_load
        where.add(module)

    def _use(self, line: int, name: str) -> None:
        reaches = notable(name)
        if reaches:
            self._found(line, name, reaches)

    def _found(self, line: int, name: str, reaches: str) -> None:
        use = Use(line, name, reaches, ".".join(self.functions))
        if use not in self.seen:
            self.seen.add(use)
            self.report.uses.append(use)


def _dotted(node: ast.expr) -> str | None:
    """Return ``a.b.c`` for such an expression, or None."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None
