"""What ``nequip-compile cache`` does: list, check and remove what is kept. torch is not needed."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nequip_compile.cache.entries import Entry, drop, entries
from nequip_compile.cache.failures import LIFETIME, failures
from nequip_core.cache_pruning import superfluous

__all__ = ["Pruning", "damaged", "listing", "prune"]

# Work of other processes is hidden; what is this old was left behind by one that was killed.
_ABANDONED = 3600.0


@dataclass(frozen=True)
class Pruning:
    """What to remove besides damaged entries, failures that count no more, and leftovers."""

    unused_days: float | None = None
    """Entries that were not used for so many days."""
    largest_total: float | None = None
    """Entries not used for longest, until the rest has so many bytes at most."""
    failures: bool = False
    """All failures."""
    everything: bool = False
    """All entries and failures."""


def listing(folder: Path) -> dict[str, Any]:
    """Return the folder, its entries (last used first) and failures as plain containers."""
    found = []
    for entry in sorted(entries(folder), key=Entry.last_used, reverse=True):
        row: dict[str, Any] = {"name": entry.path.name}
        try:
            content = entry.read()
            row |= {name: content[name] for name in ("bytes", "made", "seconds", "key")}
            row["file"] = str(entry.path / content["file"])
            row["last_used"] = _text(entry.last_used())
        except (OSError, ValueError, KeyError) as error:
            row["damaged"] = str(error)
        found.append(row)
    failed = [
        {
            "name": path.name.partition(".")[0],
            "time": None if content is None else _text(content["time"]),
            "error": None if content is None else content["error"],
        }
        for path, content in failures(folder)
    ]
    return {"folder": str(folder), "entries": found, "failures": failed}


def damaged(folder: Path) -> dict[str, str]:
    """Return name -> what is wrong, of every entry whose content is not what was kept."""
    wrong = {}
    for entry in entries(folder):
        try:
            entry.checked_file()
        except (OSError, ValueError) as error:
            wrong[entry.path.name] = str(error)
    return wrong


def prune(folder: Path, pruning: Pruning) -> tuple[int, int]:
    """Remove what shall go, and return how many entries and how many failures went.

    Raises:
        OSError: something cannot be removed.
    """
    wrong, now = damaged(folder), time.time()
    gone, sized = [], []
    for entry in entries(folder):
        if pruning.everything or entry.path.name in wrong:
            gone.append(entry)
        else:
            sized.append((entry, entry.last_used(), entry.read()["bytes"]))
    gone += superfluous(sized, now, pruning.unused_days, pruning.largest_total)
    for entry in gone:
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            drop(entry)
    _remove_leftovers(folder, now)
    return len(gone), _prune_failures(folder, pruning.failures or pruning.everything, now)


def _prune_failures(folder: Path, every: bool, now: float) -> int:
    count = 0
    for path, content in failures(folder):
        if every or content is None or not 0.0 <= now - content["time"] < LIFETIME:
            path.unlink(missing_ok=True)
            count += 1
    return count


def _remove_leftovers(folder: Path, now: float) -> None:
    """Remove what killed processes left behind: hidden folders."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir() and now - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
