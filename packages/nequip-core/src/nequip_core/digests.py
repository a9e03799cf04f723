"""SHA-256 of what is on disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

__all__ = ["file_digest", "hash_file"]

_CHUNK = 2**20


def file_digest(source: str | os.PathLike[str] | BinaryIO) -> str:
    """Return the SHA-256 of a file in hexadecimal, read in constant memory.

    Args:
        source: see `hash_file`.
    """
    return hash_file(source)[0]


def hash_file(source: str | os.PathLike[str] | BinaryIO) -> tuple[str, int]:
    """Return SHA-256 in hexadecimal, and size, of a file, read in constant memory.

    Args:
        source: a path, or an open binary file, which is read from where it stands to its end.
    """
    if isinstance(source, str | os.PathLike):
        with Path(source).open("rb") as file:
            return hash_file(file)
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size
