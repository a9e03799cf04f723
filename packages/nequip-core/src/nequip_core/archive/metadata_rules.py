"""What the keys of ``model/package_metadata.txt`` must hold, by ``docs/formats/package-v3.md``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from nequip_core.archive.texts import is_integer, is_number

__all__ = ["UNDERSTOOD", "metadata_fault"]

UNDERSTOOD: frozenset[str] = frozenset()
"""The features that `must_understand` may name."""

_OPTIONAL = frozenset({"per_edge_type_cutoff", "units", "created"})
_MODIFIER_KEYS = {"name", "persistent", "doc", "arguments"}


def metadata_fault(metadata: Mapping[str, Any], version: int) -> str | None:
    """Return what is wrong with metadata in the current shape, or None.

    Args:
        metadata: keys and values; of older formats after the upgrade.
        version: the file's format. Format 3 must have every key that is not optional.
    """
    for key, (expected, holds) in _RULES.items():
        if key not in metadata:
            if version >= 3 and key not in _OPTIONAL:
                return f"lacks the key '{key}'"
        elif not holds(metadata[key]):
            return f"must have {expected} as '{key}', found {_shown(metadata[key])}"
    names, types = metadata.get("type_names"), metadata.get("atom_types")
    if names is not None and types is not None and types != dict(enumerate(names)):
        return "must have the same names in 'type_names' and 'atom_types'"
    if "eager" not in metadata.get("available_models", ["eager"]):
        return "must have 'eager' among 'available_models'"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_positive(value: Any) -> bool:
    return is_number(value) and math.isfinite(value) and value > 0


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_unique_texts(value: Any) -> bool:
    return _is_texts(value) and bool(value) and len(set(value)) == len(value)


def _maps_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(item, str) for key, item in value.items()
    )


def _maps_texts_or_null(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(key, str) and (item is None or isinstance(item, str))
        for key, item in value.items()
    )


def _is_atom_types(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_integer(key) and isinstance(name, str) for key, name in value.items()
    )


def _is_cutoffs(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        numbers = [float(part) for part in value.split()]
    except ValueError:
        return False
    side = math.isqrt(len(numbers))
    return side > 0 and side * side == len(numbers) and all(map(_is_positive, numbers))


def _is_modifiers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(model, str)
        and isinstance(listed, list)
        and all(_is_modifier(modifier) for modifier in listed)
        for model, listed in value.items()
    )


def _is_modifier(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) >= _MODIFIER_KEYS
        and isinstance(value["name"], str)
        and isinstance(value["persistent"], bool)
        and (value["doc"] is None or isinstance(value["doc"], str))
        and _maps_texts_or_null(value["arguments"])
    )


_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "package_version_id": ("an integer", is_integer),
    "min_reader": ("text", _is_text),
    "must_understand": ("a list of text", _is_texts),
    "versions": ("a mapping of text to text", _maps_texts),
    "packager_versions": ("a mapping of text to text", _maps_texts),
    "external_modules": ("a mapping of text to text or null", _maps_texts_or_null),
    "external_requirements": ("a mapping of text to text", _maps_texts),
    "available_models": ("a list of different texts", _is_unique_texts),
    "model_names": ("a list of different texts", _is_unique_texts),
    "atom_types": ("a mapping of integers to text", _is_atom_types),
    "type_names": ("a list of different texts", _is_unique_texts),
    "r_max": ("a positive number", _is_positive),
    "per_edge_type_cutoff": ("a square of positive numbers, as text,", _is_cutoffs),
    "model_dtype": ("'float32' or 'float64'", lambda value: value in ("float32", "float64")),
    "num_parameters": ("an integer, 0 or more,", lambda value: is_integer(value) and value >= 0),
    "units": ("a mapping of text to text", _maps_texts),
    "modifiers": ("a mapping of models to lists of modifiers", _is_modifiers),
    "created": ("text", _is_text),
    "created_by": ("text", _is_text),
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
