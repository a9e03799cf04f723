"""Absolute paths in text: they name people and machines, and do not belong in a package."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["holds_absolute_path", "without_absolute_paths"]

# A path starts the text, or follows what ends a word in configs: not a letter, a digit, a dot, a
# colon after a scheme, another slash. So `eV/A`, `a/b.xyz` and `https://host/file` are none.
_START = r"(?:^|(?<=[\s'\"=,;:|&(\[{<>]))"
_NAME = r"[^\s'\"=,;:|&()\[\]{}<>/\\]"
_POSIX = rf"{_START}/(?!/){_NAME}+(?:/+{_NAME}*)*"
_HOME = rf"{_START}~{_NAME}*/{_NAME}+(?:/+{_NAME}*)*"
_WINDOWS = rf"{_START}(?:[A-Za-z]:[\\/]|\\\\){_NAME}*(?:[\\/]+{_NAME}*)*"
_FILE_URL = r"file://[^\s'\"<>]*"
_PATH = re.compile("|".join((_FILE_URL, _WINDOWS, _POSIX, _HOME)))
# Paths with spaces can be told from text only where they are the whole text.
_WHOLE = re.compile(r"(?:/(?!/)|~[^/\s]*/|[A-Za-z]:[\\/]|\\\\|file://).*", re.DOTALL)


def without_absolute_paths(value: Any) -> Any:
    """Return plain containers with every absolute path replaced by its last component.

    Args:
        value: mappings, lists, text, numbers; keys of mappings are changed as well.
    """
    if isinstance(value, dict):
        return {without_absolute_paths(k): without_absolute_paths(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_absolute_paths(item) for item in value]
    if isinstance(value, str):
        if _WHOLE.fullmatch(value):
            return _last_component(value)
        return _PATH.sub(lambda match: _last_component(match.group()), value)
    return value


def holds_absolute_path(value: Any) -> bool:
    """Return whether `without_absolute_paths` would change `value`."""
    plain = list(value) if isinstance(value, tuple) else value
    return bool(without_absolute_paths(plain) != plain)


def _last_component(path: str) -> str:
    parts = [part for part in re.split(r"[/\\]+", path) if part]
    return parts[-1] if parts else "."
