"""Text for people: aligned columns, readable sizes, colours where somebody sees them.

What is printed often comes from a file of unknown origin, so `visible` makes control characters
harmless before they reach a terminal.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from nequip_core.terminal import visible

__all__ = [
    "aligned_yaml",
    "colours",
    "columns",
    "heading",
    "json_text",
    "one_line",
    "paint",
    "size_text",
    "visible",
    "yaml_text",
]

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_ESCAPES = re.compile("\x1b\\[[0-9;]*m")


def colours(stream: TextIO | None = None) -> bool:
    """Tell whether to colour what goes to `stream`: a terminal, and ``NO_COLOR`` is not set."""
    stream = sys.stdout if stream is None else stream
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def paint(text: str, style: str, wanted: bool | None = None) -> str:
    """Return `text` in a style, or as it is where colours are not wanted.

    Args:
        text: what to print.
        style: bold, dim, red, green, yellow or cyan.
        wanted: whether to colour; default what standard output is.
    """
    if not text or not (colours() if wanted is None else wanted):
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def columns(rows: Iterable[Sequence[str]], align: str = "", gap: int = 2) -> list[str]:
    """Return lines in which the cells of `rows` stand below each other.

    Args:
        rows: the cells of each line; short rows are filled up.
        align: one letter per column, ``l`` (also the default) or ``r``.
        gap: spaces between columns.
    """
    table = [list(row) for row in rows]
    count = max((len(row) for row in table), default=0)
    widths = [
        max((_width(row[column]) for row in table if column < len(row)), default=0)
        for column in range(count)
    ]
    lines = []
    for row in table:
        cells = []
        for column, cell in enumerate(row):
            padding = " " * (widths[column] - _width(cell))
            right = align[column : column + 1] == "r"
            cells.append(padding + cell if right else cell + padding)
        lines.append((" " * gap).join(cells).rstrip())
    return lines


def heading(text: str) -> str:
    """Return a heading, underlined, with its line end."""
    return f"{paint(text, 'bold')}\n{'=' * len(text)}"


def size_text(size: int) -> str:
    """Return a number of bytes with three digits and its unit."""
    if size < 1000:
        return f"{size} B"
    number, units = float(size), iter(("kB", "MB", "GB", "TB"))
    unit = "B"
    while number >= 999.5:
        number, unit = number / 1000, next(units)
    return f"{number:.3g} {unit}"


def json_text(content: Any) -> str:
    """Return JSON for machines, indented, without a final line end."""
    import json

    return json.dumps(content, indent=1, default=str)


def yaml_text(content: Any) -> str:
    """Return YAML of plain containers, in their order, without a final line end."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(content, Dumper=dumper, sort_keys=False, allow_unicode=True)).rstrip("\n")


def aligned_yaml(content: dict[str, Any], indent: int = 0) -> list[str]:
    """Return lines of YAML in which the values of a mapping stand below each other.

    Lists of plain values take one line each.
    """
    if not content:
        return []
    keys = {key: f"{one_line(key)}:" for key in content}
    width = max(len(text) for text in keys.values())
    lines = []
    for key, value in content.items():
        start = " " * indent + keys[key]
        if isinstance(value, dict) and value:
            lines += [start, *aligned_yaml(value, indent + 2)]
        else:
            lines.append(start + " " * (width - len(keys[key]) + 2) + one_line(value))
    return lines


def one_line(value: Any) -> str:
    """Return YAML of a value in one line."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = str(
        yaml.dump(value, Dumper=dumper, default_flow_style=True, allow_unicode=True, width=10**6)
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _width(cell: str) -> int:
    return len(_ESCAPES.sub("", cell))
