"""What goes from a cache of files: the options of a command, and the entries that they choose."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import TypeVar

__all__ = ["add_pruning_options", "superfluous"]

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_DAY = 24 * 3600.0
_Entry = TypeVar("_Entry")


def add_pruning_options(parser: argparse.ArgumentParser, entry: str) -> None:
    """Add ``--older-than DAYS``, ``--larger-than SIZE`` (in bytes) and ``--all`` to a parser.

    Args:
        parser: its options are then ``older_than``, ``larger_than``, None by default, and ``all``.
        entry: what the help calls an entry of the cache.
    """
    parser.add_argument(
        "--older-than", type=_days, metavar="DAYS", help=f"each {entry} not used for so many days"
    )
    parser.add_argument(
        "--larger-than",
        type=_size,
        metavar="SIZE",
        help=f"while the cache is larger (500M, 20G, bytes), the {entry} not used for longest",
    )
    parser.add_argument("--all", action="store_true", help="everything")


def superfluous(
    entries: Iterable[tuple[_Entry, float, int]],
    now: float,
    unused_days: float | None = None,
    largest_total: float | None = None,
) -> list[_Entry]:
    """Return what to remove of a cache.

    Args:
        entries: each with the time of its last use in s, and its bytes.
        now: time, s.
        unused_days: those that were not used for so many days go.
        largest_total: those not used for longest go, until the others have so many bytes at most.
    """
    total, gone = 0, []
    for entry, used, size in sorted(entries, key=lambda item: -item[1]):
        old = unused_days is not None and now - used > unused_days * _DAY
        if old or (largest_total is not None and total + size > largest_total):
            gone.append(entry)
        else:
            total += size
    return gone


def _days(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < float("inf"):
        raise ValueError
    return value


def _size(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if not found:
        raise ValueError
    return float(found[1]) * _UNITS[found[2].upper()]
