"""The zip container of a package: written in one canonical form, and read only if it is sound."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nequip_core.archive.format import TOP_FOLDER
from nequip_core.archive.member_names import duplicate_name, name_fault
from nequip_core.archive.zip_directory import (
    CompressedError,
    StructureError,
    check_canonical,
    read_records,
)
from nequip_core.archive.zip_records import Record, central_header, end_records, local_header
from nequip_core.errors import FileFormatError, MissingFileError

__all__ = ["Entry", "Section", "read_entries", "require_canonical", "write_archive"]

_CHUNK = 2**20

Content = bytes | Path | Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class Entry(Record):
    """One member of a container: what its headers say, and where its data are.

    Attributes:
        offset: where its data start in the file.
    """

    offset: int


def read_entries(path: str | os.PathLike[str]) -> list[Entry]:
    """Return the members of a container in the order of its directory, after every check on it.

    Memory and time depend on the number of members, not on what sizes they claim. Nothing of
    their data is read, so checksums are not compared.

    Raises:
        MissingFileError: the file cannot be read.
        FileFormatError: it is no zip file, is damaged or truncated, or has what no package has:
            compressed, encrypted, duplicate, overlapping or ill-named members, data outside of
            members, comments, headers that contradict each other.
    """
    try:
        with Path(path).open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            records = read_records(file, length)
    except CompressedError as error:
        raise FileFormatError(
            f"'{path}' was packed again by another program: {error}, and packages hold stored "
            "data. Get the original file; one of format 1 or 2 may also be unzipped and its folder "
            "zipped without compression: zip -0 -X -D -r NAME.nequip.zip FOLDER"
        ) from None
    except StructureError as error:
        raise FileFormatError(
            f"'{path}' is truncated or not a package: {error} ({length} bytes); "
            "copy or write it again"
        ) from None
    except OSError as error:
        raise MissingFileError(f"package '{path}' cannot be read: {error}") from error
    return [
        Entry(record.name, record.crc, record.size, record.header, offset)
        for record, offset in records
    ]


def require_canonical(path: str | os.PathLike[str], entries: list[Entry]) -> None:
    """Check that a file, of which `entries` were read, has the one form that format 3 allows.

    Raises:
        MissingFileError: the file cannot be read.
        FileFormatError: it has another form.
    """
    try:
        with Path(path).open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            check_canonical(file, length, entries)
    except StructureError as error:
        raise FileFormatError(
            f"'{path}' is damaged, or was not written as package format 3 demands: {error}; "
            "copy or write it again"
        ) from None
    except OSError as error:
        raise MissingFileError(f"package '{path}' cannot be read: {error}") from error


class Section(io.RawIOBase):
    """A part of a file, read and sought as a file of its own.

    Args:
        path: the file.
        start: where the part starts.
        size: of the part in bytes.
    """

    def __init__(self, path: Path, start: int, size: int) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._start, self._size, self._position = start, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position within the part."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position within the part, and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` and return how many bytes were read."""
        wanted = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._start + self._position)
        content = self._file.read(wanted)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "_file"):
            self._file.close()
        super().close()


def write_archive(
    path: str | os.PathLike[str], members: Mapping[str, Content], root: str = TOP_FOLDER
) -> None:
    """Write the container of format 3: the same members give the same bytes.

    Nothing is written in place of an existing file; use `nequip_core.files.atomic_path`.

    Args:
        path: the file to write; must not exist.
        members: content by name below the top folder. What is given by path, or by a function
            that opens a binary file, is copied in constant memory.
        root: the top folder.

    Raises:
        FileFormatError: a name is not allowed, or two are equal when case is ignored.
        FileExistsError: there is a file at `path`.
        OSError: a file cannot be read or written, or changed while it was read.
    """
    names = sorted(f"{root}/{name}" for name in members)
    for name in names:
        fault = name_fault(name) if name.isascii() else "is not ASCII"
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


def _write_member(file: BinaryIO, name: str, content: Content) -> Record:
    """Append a member and return its record. The header is written again once the CRC is known."""
    header = file.tell()
    with _opened(content) as source:
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        file.write(local_header(Record(name, 0, size, header)))
        crc, written = 0, 0
        for chunk in _chunks(source):
            crc = zlib.crc32(chunk, crc)
            written += file.write(chunk)
    if written != size:
        raise OSError(f"'{name}' changed while it was read: {written} bytes, expected {size}")
    record = Record(name, crc, size, header)
    end = file.tell()
    file.seek(header)
    file.write(local_header(record))
    file.seek(end)
    return record


def _opened(content: Content) -> BinaryIO:
    if isinstance(content, bytes):
        return io.BytesIO(content)
    return content.open("rb") if isinstance(content, Path) else content()


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK):
        yield chunk
