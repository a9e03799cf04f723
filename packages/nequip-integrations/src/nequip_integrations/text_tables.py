"""Tables for a terminal and for documents: plain text in columns."""

from __future__ import annotations

from collections.abc import Sequence

from nequip_core.terminal import visible

__all__ = ["number", "text_table"]


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table with aligned columns, without a final line end.

    Args:
        header: names of the columns.
        rows: the cells.
        left: how many columns, from the first on, are aligned to the left.
    """
    table = [list(header), *([visible(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with so many significant digits, ``-`` for None."""
    return "-" if value is None else f"{value:.{digits}g}"
