"""The zip container of a package: written in one canonical form, and read only if it is sound."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from nequip_core.archive.format import TOP_FOLDER
from nequip_core.archive.member_names import duplicate_name, name_fault
from nequip_core.archive.zip_records import Record, central_header, end_records, local_header
from nequip_core.errors import FileFormatError

__all__ = ["write_archive"]

_CHUNK = 2**20


def write_archive(
    path: str | os.PathLike[str], members: Mapping[str, bytes | Path], root: str = TOP_FOLDER
) -> None:
    """Write the container of format 3: the same members give the same bytes.

    Nothing is written in place of an existing file; use `nequip_core.files.atomic_path`.

    Args:
        path: the file to write; must not exist.
        members: content by name below the top folder; files given by path are streamed.
        root: the top folder.

    Raises:
        FileFormatError: a name is not allowed, or two are equal when case is ignored.
        FileExistsError: there is a file at `path`.
        OSError: a file cannot be read or written, or changed while it was read.
    """
    names = sorted(f"{root}/{name}" for name in members)
    for name in names:
        fault = name_fault(name)
        if fault is not None:
            raise FileFormatError(f"a package cannot hold a member {name!a}: its name {fault}")
    twice = duplicate_name(names)
    if twice is not None:
        raise FileFormatError(f"a package cannot hold both '{twice[0]}' and '{twice[1]}'")
    with Path(path).open("xb") as file:
        records = [_write_member(file, name, members[name[len(root) + 1 :]]) for name in names]
        start = file.tell()
        directory = b"".join(central_header(record) for record in records)
        file.write(directory)
        file.write(end_records(len(records), len(directory), start))


def _write_member(file: BinaryIO, name: str, content: bytes | Path) -> Record:
    """Append a member and return its record. The header is written again once the CRC is known."""
    header = file.tell()
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    file.write(local_header(Record(name, 0, size, header)))
    crc, written = 0, 0
    for chunk in _chunks(content):
        crc = zlib.crc32(chunk, crc)
        written += file.write(chunk)
    if written != size:
        raise OSError(f"'{content}' changed while it was read: {written} bytes, expected {size}")
    record = Record(name, crc, size, header)
    end = file.tell()
    file.seek(header)
    file.write(local_header(record))
    file.seek(end)
    return record


def _chunks(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk
