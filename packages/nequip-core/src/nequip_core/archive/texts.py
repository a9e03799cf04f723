"""Reading YAML and JSON from a file that nobody vouches for.

The standard parsers are safe in that they run nothing, but small texts can make them use much
memory or time (nesting, anchors, many values), and some texts have more than one reading
(repeated keys). All of that is refused here before any object is built.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import yaml

__all__ = ["TextError", "is_integer", "is_number", "parse_json", "parse_yaml"]

DEEPEST = 64
"""Levels of nesting that a text may have."""
MOST_VALUES = 200_000
"""Values that a JSON text may hold."""
MOST_EVENTS = 100_000
"""Values that a YAML text may hold, keys and ends of collections included."""
LONGEST_NUMBER = 64
"""Characters that a number in a YAML text may have: longer ones can take any time to work out."""
LONGEST_INTEGER_KEY = 18
"""Characters of an integer as a key: many longer ones can have the same hash, which takes long."""
_INTEGER = "tag:yaml.org,2002:int"


class TextError(ValueError):
    """What is wrong with a text, as the end of a sentence."""


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text: UTF-8, no repeated keys, finite numbers.

    Raises:
        TextError: it is no such text, is nested too deeply, or holds too many values.
    """
    text = _decoded(content)
    if text.count(",") + text.count("[") + text.count("{") > MOST_VALUES:
        # An upper bound of the number of values; commas in strings count too.
        raise TextError(f"has more than {MOST_VALUES} values")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise TextError("is nested too deeply") from None
    except TextError:
        raise
    except ValueError as error:
        raise TextError(f"is not JSON: {_first_line(error)}") from None
    if _depth(value) > DEEPEST:
        raise TextError("is nested too deeply")
    return value


def parse_yaml(content: bytes) -> Any:
    """Return the value of a YAML text of plain types: UTF-8, no tags, anchors or repeated keys.

    Raises:
        TextError: it is no such text, is nested too deeply, or holds too many values.
    """
    text = _decoded(content)
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
    except (yaml.YAMLError, RecursionError) as error:
        raise TextError(f"is not YAML: {_first_line(error)}") from None
    except TextError:
        raise
    except (ValueError, TypeError, OverflowError) as error:  # dates and numbers that are none
        raise TextError(f"is not plain YAML: {_first_line(error)}") from None


def is_integer(value: Any) -> bool:
    """Return whether a parsed value is an integer: true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a parsed value is a number: true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """The safe loader; repeated keys are an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) != len(keys):
            twice, _ = Counter(keys).most_common(1)[0]
            raise TextError(f"has the key {twice[1][:60]!r} twice")
        for tag, text in keys:
            if tag == _INTEGER and len(text) > LONGEST_INTEGER_KEY:
                raise TextError(f"is not plain YAML: the number {text[:60]!r} as a key")
        return super().construct_mapping(node, deep)

    def construct_short_number(self, node: Any) -> Any:
        if len(node.value) > LONGEST_NUMBER:
            raise TextError(f"is not plain YAML: a number of {len(node.value)} characters")
        if node.tag == _INTEGER:
            return self.construct_yaml_int(node)
        return self.construct_yaml_float(node)


_Loader.add_constructor(_INTEGER, _Loader.construct_short_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_short_number)


def _check_events(text: str) -> None:
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Base)):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise TextError("is not plain YAML: anchors and aliases are not allowed")
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":
            raise TextError(f"is not plain YAML: the tag {tag[:60]!r} is not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise TextError("is nested too deeply")
        if count > MOST_EVENTS:
            raise TextError(f"has more than {MOST_EVENTS} values")


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"is not text: {error.reason} at byte {error.start}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise TextError(f"has the key {twice[:60]!r} twice")
    return found


def _no_constant(text: str) -> float:
    raise TextError(f"has the number {text}, which JSON does not know")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise TextError(f"has the number {text[:60]}, which is too large")
    return value


def _depth(value: Any) -> int:
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        deepest = max(deepest, depth)
        if isinstance(item, dict):
            waiting += [(below, depth + 1) for below in item.values()]
        elif isinstance(item, list):
            waiting += [(below, depth + 1) for below in item]
    return deepest


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ", ".join(lines[:3]) if lines else type(error).__name__
