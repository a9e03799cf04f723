"""What packages without an error today and fails later: found in the sources, with advice.

The checks read code that is neither this project's nor e3nn's, both of which have tests of their
own for these things.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from nequip_package.import_chain import CodeWalk

__all__ = ["advice"]

_CHECKED_ELSEWHERE = {"nequip_core", "nequip_model", "nequip_kernels", "e3nn", "nequip", "_mock"}
# Libraries that only machines with an accelerator have; their decorators look for one.
_ACCELERATOR_LIBRARIES = {
    "cuequivariance",
    "cuequivariance_torch",
    "cupy",
    "numba",
    "openequivariance",
    "triton",
}


def advice(walk: CodeWalk) -> list[str]:
    """Return one text for each place in the packaged code that is likely to fail later.

    Found are: ``isinstance`` against a module class, decorators that need an accelerator when the
    code is imported, imports of accelerator libraries at load, and optional imports that no rule
    mentions.

    Args:
        walk: the code that a model needs.
    """
    found = [
        f"{place}: the optional import of '{module}' is declared nowhere, so in the package it "
        f"counts as absent even where it is installed; declare '{module.partition('.')[0]}' "
        "external, or import it in the function that uses it"
        for module, place in sorted(walk.skipped.items())
        if place.partition(".")[0] not in _CHECKED_ELSEWHERE
    ]
    for module, source in sorted(walk.sources.items()):
        if module.partition(".")[0] in _CHECKED_ELSEWHERE or source.from_base:
            continue
        tree = ast.parse(source.text)
        found += _imports_at_load(module, walk)
        found += _decorators(module, tree, walk)
        found += _instance_checks(module, tree, walk)
    return found


def _imports_at_load(module: str, walk: CodeWalk) -> Iterator[str]:
    if module not in walk.on_load:
        return
    for statement in walk.imports[module]:
        top = statement.module.partition(".")[0]
        if top in _ACCELERATOR_LIBRARIES and statement.on_load and not statement.conditional:
            yield (
                f"{module}, line {statement.line}: '{top}' is imported when the model is loaded, "
                "so the package does not load on a machine without it; import it in the function "
                "that uses it"
            )


def _decorators(module: str, tree: ast.Module, walk: CodeWalk) -> Iterator[str]:
    libraries = {
        statement.bound_to: statement.module.partition(".")[0]
        for statement in walk.imports[module]
        if statement.on_load and statement.module.partition(".")[0] in _ACCELERATOR_LIBRARIES
    }
    for definition in tree.body:
        if not isinstance(definition, ast.FunctionDef | ast.ClassDef):
            continue
        for decorator in definition.decorator_list:
            root = _root(decorator)
            if root in libraries:
                yield (
                    f"{module}, line {decorator.lineno}: a decorator of '{libraries[root]}' runs "
                    "when this module is imported, and may look for an accelerator; define "
                    f"'{definition.name}' under 'if torch.cuda.is_available():', or in the "
                    "function that uses it"
                )


def _instance_checks(module: str, tree: ast.Module, walk: CodeWalk) -> Iterator[str]:
    imported = {
        statement.bound_to: f"{statement.module}.{statement.name}"
        for statement in walk.imports[module]
        if statement.name is not None and statement.module in walk.sources
    }
    own = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if not (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "isinstance"
            and len(node.args) == 2
        ):
            continue
        classes = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
        for name in [kind.id for kind in classes if isinstance(kind, ast.Name)]:
            if name in imported or name in own:
                path = imported.get(name, f"{module}.{name}")
                if _is_module_class(module, name):
                    yield (
                        f"{module}, line {node.lineno}: isinstance(..., {name}) is false for a "
                        f"'{path}' out of another package, which has a class of its own; test a "
                        "marker attribute of the class instead"
                    )


def _is_module_class(module: str, name: str) -> bool:
    """Return whether `name` is, in a module that is imported already, a class of models."""
    import torch

    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and issubclass(kind, torch.nn.Module)


def _root(decorator: ast.expr) -> str:
    while isinstance(decorator, ast.Call | ast.Attribute):
        decorator = decorator.func if isinstance(decorator, ast.Call) else decorator.value
    return decorator.id if isinstance(decorator, ast.Name) else ""
