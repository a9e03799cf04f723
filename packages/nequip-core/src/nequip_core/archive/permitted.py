"""What a description of a model may name: the rule for everything that a rebuild imports.

A description comes from a file, so whatever it names is checked before anything is imported, and
what was imported is checked again before it is called:

- the architecture is an entry of the group `nequip.architectures`, or the dotted path of a builder;
- every ``_target_``, at any depth, is the dotted path of a builder or of a module class, or of a
  function that a registered extension package defines and annotates to return a module;
- dotted paths lie in this project's modules of models or in a registered extension package, and no
  part of them begins with an underscore;
- no text is the name of a file.
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from nequip_core.documented_names import canonical_name
from nequip_core.errors import FileFormatError
from nequip_core.instantiate import TARGET
from nequip_core.plugins import ARCHITECTURES, extension_entries, plugin_names

__all__ = ["check_description", "check_target", "is_permitted_path"]

MODEL_MODULES = (
    "nequip_model.gnn",
    "nequip_model.graph_modules",
    "nequip_model.nn",
    "nequip_model.pair_potentials",
    "nequip_model.presets",
)
"""Modules of this project, and what is below them, that hold builders and module classes."""

_DEEPEST = 32
_LARGEST = 10**7  # of integers, which stand for numbers of layers, channels, ...
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
# What an import system, an entry point or Hydra would take for the path of an object.
_DOTTED = re.compile(rf"{_NAME}(\.{_NAME})+(:{_NAME}(\.{_NAME})*)?|{_NAME}:{_NAME}(\.{_NAME})*")
_FILE = re.compile(r"[/\\\x00]|^~|^[A-Za-z]:$|\.(ckpt|json|npz|pickle|pkl|pt2?|pth|yaml|yml|zip)$")


def check_description(description: Any, where: str) -> None:
    """Check that a description names nothing but what may be built; nothing is imported before.

    Args:
        description: as in ``model/architecture.json``.
        where: file and model, for messages.

    Raises:
        FileFormatError: it is no description, or it names something else.
    """
    if not isinstance(description, Mapping):
        raise FileFormatError(f"{where} must be a mapping, found {type(description).__name__}")
    name, version = description.get("architecture"), description.get("version")
    arguments, modifiers = description.get("arguments"), description.get("modifiers") or []
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise FileFormatError(f"{where} must have 'architecture', a text, and 'arguments'")
    if not isinstance(modifiers, list) or not all(
        isinstance(entry, Mapping) and isinstance(entry.get("modifier"), str) for entry in modifiers
    ):
        raise FileFormatError(f"{where}.modifiers must be a list of mappings with 'modifier'")
    listed = arguments.get("type_names")
    types = {text for text in listed if isinstance(text, str)} if isinstance(listed, list) else ()
    targets = [
        target
        for key, value in (("arguments", arguments), ("modifiers", modifiers))
        for target in _targets(value, f"{where}.{key}", frozenset(types))
    ]
    if version is None:
        _require_permitted(name, f"{where}.architecture")
    elif name not in plugin_names(ARCHITECTURES):
        raise FileFormatError(
            f"{where}: the architecture '{name}' is not installed (there are "
            f"{', '.join(plugin_names(ARCHITECTURES)) or 'none'}); install the distribution that "
            "provides it"
        )
    # Only now that all names are known to be permitted is the first of them imported.
    if version is None and not hasattr(_resolve(name, where), "architecture_name"):
        raise FileFormatError(f"{where}.architecture: '{name}' is not a model builder")
    for target, place in targets:
        check_target(target, place)


def is_permitted_path(path: Any) -> bool:
    """Return whether a dotted path lies where builders and module classes are; imports nothing."""
    if not isinstance(path, str) or re.fullmatch(rf"{_NAME}(\.{_NAME})+", path) is None:
        return False
    canonical = canonical_name(path)
    if any(part.startswith("_") for part in (*path.split("."), *canonical.split("."))):
        return False
    return _is_below(canonical, (*MODEL_MODULES, *_extension_roots()))


def _extension_roots() -> tuple[str, ...]:
    return tuple(entry.value.partition(":")[0] for entry in extension_entries())


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path.startswith(f"{root}.") for root in roots)


def check_target(path: str, where: str) -> None:
    """Check that a permitted path names a builder or a module class. Imports its module.

    Raises:
        FileFormatError: the path is not permitted, or names something else.
    """
    _require_permitted(path, where)
    _resolve(path, where)


def _require_permitted(path: Any, where: str) -> None:
    if not is_permitted_path(path):
        raise FileFormatError(
            f"{where} names '{path}', which a file may not make this program import: only builders "
            "and module classes of nequip-model and of registered extension packages"
        )


def _resolve(path: str, where: str) -> Any:
    """Return the builder or module class of a permitted path."""
    from torch import nn

    module, _, name = canonical_name(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise FileFormatError(f"{where} names '{path}', which does not import: {error}") from error
    is_class = inspect.isclass(found) and issubclass(found, nn.Module)
    is_builder = inspect.isfunction(found) and hasattr(found, "architecture_name")
    # A module also has what it imported: that is not what the path says.
    home = f"{getattr(found, '__module__', '')}.{name}"
    is_known = is_class or is_builder or _makes_module(found, home)
    if not is_known or not is_permitted_path(home):
        raise FileFormatError(f"{where} names '{path}', which is no builder and no module class")
    return found


def _makes_module(found: Any, home: str) -> bool:
    """Return whether this is a function of an extension package that says it returns a module."""
    from torch import nn

    if not inspect.isfunction(found) or not _is_below(home, _extension_roots()):
        return False
    try:
        returned = typing.get_type_hints(found).get("return")
    except Exception:
        return False  # an annotation that does not evaluate says nothing
    return inspect.isclass(returned) and issubclass(returned, nn.Module)


def _targets(
    value: Any, where: str, types: frozenset[str], depth: int = 0
) -> Iterator[tuple[str, str]]:
    """Yield every ``_target_`` with its place, after checking it and every text beside it."""
    if depth > _DEEPEST:
        raise FileFormatError(f"{where} is nested more than {_DEEPEST} levels deep")
    if isinstance(value, Mapping):
        for key, entry in value.items():
            place = f"{where}.{key}"
            if key == TARGET:
                _require_permitted(entry, place)
                yield entry, place
            else:
                yield from _targets(entry, place, types, depth + 1)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _targets(entry, f"{where}[{index}]", types, depth + 1)
    elif isinstance(value, int) and value > _LARGEST and not where.endswith(".seed"):
        raise FileFormatError(f"{where} is larger than {_LARGEST}, which is no size of a model")
    elif isinstance(value, str) and value not in types:
        if _FILE.search(value):
            raise FileFormatError(f"{where} names the file '{value}', which a description may not")
        if _DOTTED.fullmatch(value):
            _require_permitted(value, where)
