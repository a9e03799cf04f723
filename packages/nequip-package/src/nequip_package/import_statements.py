"""What a module imports, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace

__all__ = ["ImportStatement", "import_statements"]


@dataclass(frozen=True)
class ImportStatement:
    """One imported name.

    Attributes:
        module: absolute dotted name.
        name: what is taken from it, ``*`` for everything; None: the module itself.
        bound_to: the variable that stands for it, None where none is bound.
        on_load: whether it runs when the module is imported, not only in a function.
        optional: whether it stands in a ``try`` that catches its failure.
        conditional: whether it stands under an ``if`` or is optional.
        line: line number.
    """

    module: str
    name: str | None
    bound_to: str | None
    on_load: bool
    optional: bool
    conditional: bool
    line: int


@dataclass(frozen=True)
class _Where:
    on_load: bool = True
    optional: bool = False
    conditional: bool = False

    @property
    def flags(self) -> tuple[bool, bool, bool]:
        return self.on_load, self.optional, self.conditional


def import_statements(tree: ast.AST, package: str) -> Iterator[ImportStatement]:
    """Yield the imports of a module in the order of its lines, also those inside functions.

    Imports for type checkers (``if TYPE_CHECKING:``) never run and are left out.

    Args:
        tree: the parsed module.
        package: what its relative imports are relative to.
    """
    yield from _visit(tree, package, _Where())


def _visit(node: ast.AST, package: str, where: _Where) -> Iterator[ImportStatement]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                bound = alias.asname or alias.name.partition(".")[0]
                yield ImportStatement(alias.name, None, bound, *where.flags, child.lineno)
        elif isinstance(child, ast.ImportFrom):
            module = _absolute(child, package)
            for alias in child.names:
                yield ImportStatement(
                    module,
                    alias.name,
                    alias.asname or alias.name,
                    *where.flags,
                    child.lineno,
                )
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _visit(child, package, replace(where, on_load=False))
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for branch in child.orelse:
                yield from _visit(ast.Module([branch], []), package, where)
        elif isinstance(child, ast.If):
            yield from _visit(child, package, replace(where, conditional=True))
        elif isinstance(child, ast.Try) and child.handlers:
            yield from _visit(child, package, replace(where, optional=True, conditional=True))
        else:
            yield from _literal_import(child, where)
            yield from _visit(child, package, where)


def _literal_import(node: ast.AST, where: _Where) -> Iterator[ImportStatement]:
    """Yield what ``__import__("name")`` imports."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "__import__"
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    ):
        yield ImportStatement(node.args[0].value, None, None, *where.flags, node.lineno)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
    return f"{base}.{node.module}" if node.module else base


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )
