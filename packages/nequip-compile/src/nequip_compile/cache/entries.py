"""Kept compiled files: a folder each, with the file and what it follows from.

``<folder>/<key>/model.nequip.pt2`` (or ``.pth``) and ``entry.json``: `FORMAT`, the file's SHA-256
and size, when and in how many seconds it was made, and the whole key in plain text. A folder
appears by renaming, whole or not at all. The time of ``entry.json`` is that of the last use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nequip_core.archive.trust import is_private
from nequip_core.digests import file_digest

__all__ = ["ENTRY_NAME", "FORMAT", "Entry", "add_entry", "drop", "entries", "key_name"]

FORMAT = 1
ENTRY_NAME = "entry.json"
_HIDDEN = "."


@dataclass(frozen=True)
class Entry:
    """One kept file.

    Args:
        path: folder of the entry, which may be damaged or gone.
    """

    path: Path

    def read(self) -> dict[str, Any]:
        """Return what is stated about the file.

        Raises:
            ValueError: it is damaged, or of another format.
            OSError: it cannot be read.
        """
        content = json.loads((self.path / ENTRY_NAME).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{ENTRY_NAME} is of another format")
        for name, kind in (("file", str), ("sha256", str), ("bytes", int), ("key", dict)):
            if not isinstance(content.get(name), kind):
                raise ValueError(f"{ENTRY_NAME} lacks '{name}'")
        if Path(content["file"]).name != content["file"]:
            raise ValueError(f"{ENTRY_NAME} names a file elsewhere")
        return content

    def checked_file(self) -> Path:
        """Return the compiled file, whose content is what was kept.

        Raises:
            ValueError: it is damaged, or others can write to it.
            OSError: it cannot be read.
        """
        content = self.read()
        file = self.path / content["file"]
        with file.open("rb") as stream:
            if not is_private(os.fstat(stream.fileno())) or not is_private(self.path.stat()):
                raise ValueError("others can write to it")
            found = file_digest(stream)
        if found != content["sha256"]:
            raise ValueError(f"the SHA-256 of {file.name} is not the one that was kept")
        return file

    def mark_used(self) -> None:
        """Let `last_used` be now, where that can be written."""
        with contextlib.suppress(OSError):
            os.utime(self.path / ENTRY_NAME)

    def last_used(self) -> float:
        """Return when the entry was last used, in seconds since 1970; 0 if that is not known."""
        try:
            return (self.path / ENTRY_NAME).stat().st_mtime
        except OSError:
            return 0.0


def key_name(key: Mapping[str, Any]) -> str:
    """Return the name of an entry: the SHA-256 of its key, hexadecimal."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def entries(folder: Path) -> list[Entry]:
    """Return all entries, damaged ones included, sorted by name."""
    try:
        found = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    return [Entry(path) for path in found if path.is_dir() and path.name[0] != _HIDDEN]


@contextlib.contextmanager
def _workroom(folder: Path) -> Iterator[Path]:
    """Yield a new hidden folder in the cache that is gone afterwards."""
    room = folder / f"{_HIDDEN}{secrets.token_hex(8)}"
    try:
        room.mkdir(mode=0o700)
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


def add_entry(folder: Path, key: Mapping[str, Any], made: Path, seconds: float) -> Path:
    """Keep a copy of a compiled file, and return where it is.

    Args:
        folder: of the cache.
        key: what the file follows from.
        made: the file.
        seconds: that making it took.

    Raises:
        OSError: there is no space for it, for instance.
    """
    final = folder / key_name(key)
    with _workroom(folder) as room:
        copy = room / "entry" / made.name
        copy.parent.mkdir(mode=0o700)
        shutil.copyfile(made, copy)
        content = {
            "format": FORMAT,
            "file": copy.name,
            "sha256": file_digest(copy),
            "bytes": copy.stat().st_size,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "key": dict(key),
        }
        (copy.parent / ENTRY_NAME).write_text(json.dumps(content, indent=1), encoding="utf-8")
        if final.exists():  # damaged, or by a process that this file system cannot lock out
            drop(Entry(final))
        copy.parent.rename(final)
    return final / made.name


def drop(entry: Entry) -> None:
    """Remove an entry; it is gone at once for others.

    Raises:
        OSError: it cannot be removed.
    """
    away = entry.path.with_name(f"{_HIDDEN}{secrets.token_hex(8)}")
    entry.path.rename(away)
    shutil.rmtree(away, ignore_errors=True)
