"""An unfinished download: the bytes that are there, and a file beside them that says of what."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nequip_core.archive.texts import TextError, parse_json
from nequip_core.repository.listing import Listing

__all__ = ["Unfinished", "discard"]

_LONGEST_TAG = 200


def discard(part: Path) -> None:
    """Remove a part, and what says of what it is one."""
    part.unlink(missing_ok=True)
    _mark(part).unlink(missing_ok=True)


class Unfinished:
    """A part of a file, and whether it can be continued from an address.

    Args:
        part: where the bytes are, or will be.
        address: where the file comes from.
        listing: what is stated of the file.
    """

    def __init__(self, part: Path, address: str, listing: Listing) -> None:
        self.part = part
        self.tag = ""
        self._mark = _mark(part)
        self._stated = {"address": address, "sha256": listing.sha256, "size": listing.size}
        self._size = listing.size
        found = self._read()
        self._fits = {key: found.get(key) for key in self._stated} == self._stated
        if not self._fits and listing.sha256 is not None:
            # The same file on another server: its digest decides in the end.
            self._fits = found.get("sha256") == listing.sha256
        tag = found.get("tag")
        if self._fits and isinstance(tag, str) and found.get("address") == address:
            self.tag = tag

    def size(self) -> int:
        """Return the bytes that are there."""
        return self.part.stat().st_size if self.part.exists() else 0

    def start(self) -> int:
        """Return at which byte to go on: 0 where nothing tells that it is the same file."""
        known = self.tag or self._stated["sha256"]
        return self.size() if self._fits and known else 0

    def is_complete(self) -> bool:
        """Return whether all bytes that are stated are there already."""
        return self._fits and self._size is not None and self.size() == self._size

    def begin(self, tag: str | None, start: int) -> None:
        """Write down what is about to arrive, and drop what is there after `start`.

        Args:
            tag: the file's ``ETag``; None leaves the one that is known.
            start: at which byte what arrives begins.
        """
        if tag is not None:
            # A weak tag says that the files mean the same, not that their bytes are the same.
            self.tag = "" if tag.startswith("W/") else tag[:_LONGEST_TAG]
        self._fits = True
        if start == 0:
            self.part.unlink(missing_ok=True)
        self._mark.write_text(json.dumps({**self._stated, "tag": self.tag}), encoding="utf-8")
        self.part.touch(mode=0o600)
        os.truncate(self.part, start)

    def clear(self) -> None:
        """Remove the part: the next attempt begins anew."""
        discard(self.part)
        self.tag = ""

    def _read(self) -> dict[str, Any]:
        try:
            found = parse_json(self._mark.read_bytes())
        except (OSError, TextError):
            return {}
        return found if isinstance(found, dict) else {}


def _mark(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
