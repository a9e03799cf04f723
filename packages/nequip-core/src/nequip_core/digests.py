"""SHA-256 of what is on disk: of a file's content, and of the source code of a module."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import BinaryIO

__all__ = ["file_digest", "hash_file", "source_digest"]

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


def source_digest(module: str) -> str:
    """Return a digest of the Python source of a module, in hexadecimal.

    Args:
        module: dotted name. Of a package every module below it counts, under its path in there; one
            that is not installed has the digest of nothing.
    """
    spec = importlib.util.find_spec(module)
    digest = hashlib.sha256()
    for root in [] if spec is None else spec.submodule_search_locations or []:
        for file in sorted(Path(root).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    if spec is not None and not spec.submodule_search_locations and spec.origin:
        digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()
