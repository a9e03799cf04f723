"""The modifiers of a packaged model, without running its code.

Format 3 lists them in its metadata. For older formats the classes of the modules that the models
are made of are taken from the pickle, read as text, and the marked methods from their sources.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from typing import Any

from nequip_core.archive.format import EAGER_MODEL_MEMBER
from nequip_core.archive.reader import PackageReader
from nequip_package.pickled import Call, Global, Items, read_pickle

__all__ = ["packaged_modifiers"]

_MARK = "model_modifier"
_REBUILDERS = {"copyreg.__newobj__", "copyreg._reconstructor"}


def packaged_modifiers(package: PackageReader) -> dict[str, list[dict[str, Any]]]:
    """Return the public modifiers of each model: name, persistent, doc, arguments; by name.

    Args:
        package: the package; nothing of it is run.

    Raises:
        FileFormatError: the package is damaged.
    """
    recorded = package.metadata.get("modifiers")
    if isinstance(recorded, dict):
        return recorded
    member = EAGER_MODEL_MEMBER
    pickled = read_pickle(package.read_bytes(member), f"'{member}' of '{package.path}'")
    sources = _Sources(package)
    found = {}
    for name, model in _children(pickled.value):
        methods: dict[str, dict[str, Any]] = {}
        for module, kind in sorted(set(_classes(model))):
            for method in sources.modifiers(module, kind):
                methods.setdefault(method["name"], method)
        public = [methods[name] for name in sorted(methods) if not methods[name].pop("private")]
        found[str(name)] = public
    return found


def _children(module: Any) -> list[tuple[Any, Any]]:
    state = module.state if isinstance(module, Call) else None
    children = state.get("_modules") if isinstance(state, Items) else None
    items = children.items if isinstance(children, Call) else children
    return items.pairs if isinstance(items, Items) else []


def _classes(module: Any) -> Iterator[tuple[str, str]]:
    """Yield module and name of the class of a pickled module and of all below it."""
    waiting, seen = [module], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen or not isinstance(part, Call):
            continue
        seen.add(id(part))
        kind = part.function
        if str(kind) in _REBUILDERS and isinstance(part.arguments, tuple) and part.arguments:
            kind = part.arguments[0]
        if isinstance(kind, Global):
            yield kind.module, kind.name
        waiting += [child for _, child in _children(part)]


class _Sources:
    """The classes that the sources in a package define."""

    def __init__(self, package: PackageReader) -> None:
        self._package = package
        self._members = package.sources()
        self._names: dict[str, dict[str, Any]] = {}

    def modifiers(self, module: str, kind: str) -> Iterator[dict[str, Any]]:
        """Yield the modifiers of a class and of its bases, nearest first."""
        waiting, seen = [(module, kind)], set()
        while waiting:
            module, kind = waiting.pop(0)
            definition = self._defined(module).get(kind)
            if isinstance(definition, tuple):  # imported from elsewhere
                waiting.append(definition)
            if (module, kind) in seen or not isinstance(definition, ast.ClassDef):
                continue
            seen.add((module, kind))
            for node in definition.body:
                if isinstance(node, ast.FunctionDef) and (mark := _mark(node)):
                    yield _described(node, mark)
            waiting += [self._located(module, base) for base in definition.bases]

    def _located(self, module: str, base: ast.expr) -> tuple[str, str]:
        """Return where the class is that an expression in `module` names."""
        dotted = ast.unparse(base)
        parent, _, name = dotted.rpartition(".")
        imported = self._defined(module).get(parent or name)
        if parent and isinstance(imported, tuple):
            return ".".join(filter(None, imported)), name
        return module, name

    def _defined(self, module: str) -> dict[str, Any]:
        """Return what a module's names stand for: a class, or the (module, name) it is from."""
        if module in self._names:
            return self._names[module]
        names = self._names[module] = {}
        member = self._members.get(module)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(self._package.read_bytes(member)) if member else ast.Module([], [])
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # for another Python, or odd
            return names
        parent = module if member and member.endswith("/__init__.py") else module.rpartition(".")[0]
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                names[node.name] = node
            elif isinstance(node, ast.ImportFrom):
                base = parent.rsplit(".", node.level - 1)[0] if node.level > 1 else parent
                origin = ".".join(filter(None, (base if node.level else "", node.module)))
                for alias in node.names:
                    names[alias.asname or alias.name] = (origin, alias.name)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    names[alias.asname or alias.name] = (alias.name, "")
        return names


def _mark(method: ast.FunctionDef) -> ast.Call | None:
    """Return the decorator that makes a method a modifier, or None."""
    for decorator in method.decorator_list:
        if isinstance(decorator, ast.Call) and _last_name(decorator.func) == _MARK:
            return decorator
    return None


def _last_name(expression: ast.expr) -> str:
    return ast.unparse(expression).rpartition(".")[2]


def _described(method: ast.FunctionDef, mark: ast.Call) -> dict[str, Any]:
    marks: dict[str, ast.expr] = dict(zip(("persistent", "private"), mark.args, strict=False))
    marks |= {keyword.arg: keyword.value for keyword in mark.keywords if keyword.arg}

    def is_set(name: str) -> bool:
        value = marks.get(name)
        return isinstance(value, ast.Constant) and value.value is True

    positional = method.args.posonlyargs + method.args.args
    texts: list[str | None] = [ast.unparse(default) for default in method.args.defaults]
    defaults = [None] * (len(positional) - len(texts)) + texts
    arguments = {
        argument.arg: default
        for argument, default in list(zip(positional, defaults, strict=True))[2:]
    }
    for argument, value in zip(method.args.kwonlyargs, method.args.kw_defaults, strict=True):
        arguments[argument.arg] = None if value is None else ast.unparse(value)
    return {
        "name": method.name,
        "persistent": is_set("persistent"),
        "private": is_set("private"),
        "doc": ast.get_docstring(method) or "",
        "arguments": arguments,
    }
