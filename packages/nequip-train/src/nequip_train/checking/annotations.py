"""The kinds of values that annotations of parameters allow, read from source."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from nequip_train.checking.sources import Found, Module, Sources, dotted
from nequip_train.checking.values import (
    ANYTHING,
    Choice,
    Items,
    Kind,
    Object,
    OneOf,
    Scalar,
    Table,
)

__all__ = ["kind_of_annotation", "union"]

_SCALARS = ("int", "float", "bool", "str")
_LISTS = {"list", "List", "Sequence", "Iterable", "Collection", "MutableSequence", "set", "Set"}
_TABLES = {"dict", "Dict", "Mapping", "MutableMapping"}
_PATHS = {"Path", "PathLike", "PurePath"}
# Modules whose names are known by heart; any other class is what only code can make.
_KNOWN_MODULES = ("builtins", "typing", "typing_extensions", "collections.abc", "pathlib", "os")
_MAX_DEPTH = 12


def kind_of_annotation(
    node: ast.AST | None, module: Module, sources: Sources, is_lenient: bool, depth: int = 0
) -> Kind:
    """Return the kind of values that an annotation allows; `ANYTHING` where it is not understood.

    Args:
        node: the annotation, None where there is none.
        module: the module it stands in, for the meaning of names.
        sources: where further modules are found.
        is_lenient: see `nequip_train.checking.values.Scalar`.
        depth: number of aliases followed already.
    """
    reader = _Reader(module, sources, is_lenient, depth)
    return ANYTHING if node is None or depth > _MAX_DEPTH else reader.kind(node)


def union(kinds: Sequence[Kind]) -> Kind:
    """Return the kind of values of any of `kinds`."""
    flat: list[Kind] = []
    for kind in kinds:
        flat += list(kind.kinds) if isinstance(kind, OneOf) else [kind]
    if any(kind is ANYTHING for kind in flat):
        return ANYTHING
    choices = [kind for kind in flat if isinstance(kind, Choice) and not kind.ignores_case]
    if choices:
        values = [(type(value), value) for kind in choices for value in kind.values]
        merged = Choice(tuple(value for _, value in dict.fromkeys(values)))
        flat = [merged if kind is choices[0] else kind for kind in flat]
        flat = [kind for kind in flat if kind is merged or kind not in choices]
    unique = [kind for index, kind in enumerate(flat) if kind not in flat[:index]]
    return unique[0] if len(unique) == 1 else OneOf(tuple(unique))


class _Reader:
    def __init__(self, module: Module, sources: Sources, is_lenient: bool, depth: int) -> None:
        self.module, self.sources = module, sources
        self.is_lenient, self.depth = is_lenient, depth

    def kind(self, node: ast.AST) -> Kind:
        if isinstance(node, ast.Constant):
            return self._constant(node.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return union([self.kind(node.left), self.kind(node.right)])
        if isinstance(node, ast.Subscript):
            return self._subscript(node)
        name = dotted(node)
        return self._named(name) if name else ANYTHING

    def _constant(self, value: object) -> Kind:
        if value is None:
            return Scalar("null")
        if isinstance(value, str):
            try:
                return self.kind(ast.parse(value, mode="eval").body)
            except SyntaxError:
                return ANYTHING
        return ANYTHING

    def _subscript(self, node: ast.Subscript) -> Kind:
        name = dotted(node.value).rpartition(".")[2]
        inner = node.slice
        parts = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
        if name == "Optional":
            return union([self.kind(parts[0]), Scalar("null")])
        if name == "Union":
            return union([self.kind(part) for part in parts])
        if name == "Literal":
            values = [part.value for part in parts if isinstance(part, ast.Constant)]
            return Choice(tuple(values)) if len(values) == len(parts) else ANYTHING
        if name in ("tuple", "Tuple"):
            ends_open = isinstance(parts[-1], ast.Constant) and parts[-1].value is Ellipsis
            if ends_open:
                return Items(self.kind(parts[0]))
            return Items(union([self.kind(part) for part in parts]), length=len(parts))
        if name in _LISTS:
            return Items(self.kind(parts[0]))
        if name in _TABLES and len(parts) == 2:
            return Table(self.kind(parts[1]))
        if name in _PATHS:
            return Scalar("str")
        if name in ("Annotated", "Final", "Required", "NotRequired"):
            return self.kind(parts[0])
        return self._named(dotted(node.value))

    def _named(self, name: str) -> Kind:
        """Return the kind of a class or alias."""
        last = name.rpartition(".")[2]
        if last == "Any" or not name:
            return ANYTHING
        if name == last and last not in self.module.bindings:
            if last in _SCALARS:
                return Scalar(last, self.is_lenient)
            if last in ("list", "tuple", "set"):
                return Items()
            return Table() if last == "dict" else ANYTHING
        bound = self.module.bindings.get(name.partition(".")[0])
        owner = bound[0] if isinstance(bound, tuple) else ""
        if owner in _KNOWN_MODULES:
            return self._known(last)
        answer = self.sources.lookup(self.module, name)
        if not isinstance(answer, Found):
            return ANYTHING
        if isinstance(answer.node, ast.ClassDef):
            return self._class(answer.node)
        if isinstance(answer.node, ast.Subscript | ast.BinOp | ast.Name | ast.Attribute):
            return kind_of_annotation(
                answer.node, answer.module, self.sources, self.is_lenient, self.depth + 1
            )
        return ANYTHING

    def _known(self, last: str) -> Kind:
        if last in _LISTS:
            return Items()
        if last in _TABLES:
            return Table()
        return Scalar("str") if last in _PATHS else ANYTHING

    def _class(self, node: ast.ClassDef) -> Kind:
        """Return `Object` for a class, unless plain values may be of it all the same."""
        bases = {dotted(getattr(base, "value", base)).rpartition(".")[2] for base in node.bases}
        bases |= {dotted(base).rpartition(".")[2] for base in node.bases}
        if {"Protocol", "Enum", "StrEnum", "IntEnum", "TypedDict", "NamedTuple"} & bases:
            return ANYTHING
        if {"str", "int", "float", "dict", "list", "tuple", "StrictEnum", "Path"} & bases:
            return ANYTHING
        return Object(node.name)
