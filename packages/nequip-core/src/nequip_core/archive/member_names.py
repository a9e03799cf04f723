"""Names of members: what a name may be, so that every program sees the same files in an archive.

Packages of formats 1 and 2 have a top folder named like the file that was first written, which a
user may have named in any script. Below it, and in format 3, names are ASCII.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["duplicate_name", "name_fault"]

LONGEST_NAME = 1024
"""Bytes that a member's full name may have."""

_FORBIDDEN = re.compile(r"[^\x20-\x7e]|\\")
_FORBIDDEN_AT_TOP = re.compile(r"[\x00-\x1f\x7f]|\\")
_DRIVE = re.compile(r"^[A-Za-z]:")


def name_fault(name: str) -> str | None:
    """Return what is wrong with a member's full name, or None."""
    top, _, rest = name.partition("/")
    found = _FORBIDDEN_AT_TOP.search(top) or _FORBIDDEN.search(rest)
    if not found and not top.isprintable():
        return "has a top folder that cannot be printed"
    if found:
        character = found.group()
        return "has a backslash" if character == "\\" else f"has the character {character!a}"
    if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} bytes"
    if name.startswith("/"):
        return "is absolute"
    if _DRIVE.match(name):
        return "names a drive"
    parts = name.split("/")
    if parts[-1] == "" and len(parts) > 1:
        return "names a folder"
    if not name or "" in parts:
        return "has an empty part"
    if "." in parts or ".." in parts:
        return "has a '.' or '..' part"
    if len(parts) == 1:
        return "lies in no folder"
    return None


def duplicate_name(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two names that are equal when case is ignored, or None."""
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            return seen[name.lower()], name
        seen[name.lower()] = name
    return None
