"""The folder of kept frames: where it is, what is in it, and what goes. torch is not needed."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from nequip_core.cache_pruning import superfluous
from nequip_core.user_settings import cache_or_none

__all__ = ["CACHE_VARIABLE", "SUFFIX", "cache_folder", "entries", "lock_file", "prune"]

CACHE_VARIABLE = "NEQUIP_FRAME_CACHE"
SUFFIX = ".frames.lmdb"
# Work of other processes is hidden; what is this old (s) was left behind by one that was killed.
_ABANDONED = 2 * 24 * 3600.0


def cache_folder() -> Path | None:
    """Return the folder of the cache, None if it is switched off.

    It is what the environment variable ``NEQUIP_FRAME_CACHE`` says (``off`` for none), or
    ``nequip/frames`` in the user's cache folder.
    """
    return cache_or_none(CACHE_VARIABLE, "frames")


def lock_file(path: Path) -> Path:
    """Return the file that is there while a process makes the file at a path."""
    return path.with_name(f".{path.name}.lock")


def entries(folder: Path) -> list[tuple[Path, float, int]]:
    """Return path, time of the last use (seconds since 1970) and bytes of every entry."""
    found = []
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append((path, status.st_mtime, status.st_size))
    return sorted(found, key=lambda entry: -entry[1])


def prune(
    folder: Path, unused_days: float | None = None, largest_total: float | None = None
) -> tuple[int, int]:
    """Remove entries, and what killed processes left; return how many entries and bytes went.

    Args:
        folder: of the cache.
        unused_days: those that were not used for so many days.
        largest_total: those not used for longest, until the others have so many bytes at most.

    Raises:
        OSError: something cannot be removed.
    """
    now = time.time()
    sized = [((path, size), used, size) for path, used, size in entries(folder)]
    gone = superfluous(sized, now, unused_days, largest_total)
    for path, _ in gone:
        path.unlink(missing_ok=True)
    for left in folder.glob(f".*{SUFFIX}.*"):
        with contextlib.suppress(FileNotFoundError):
            if left.is_dir() and now - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
    return len(gone), sum(size for _, size in gone)
