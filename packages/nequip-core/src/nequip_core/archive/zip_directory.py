"""Reading the structure of a zip file so that no other reader can see other files in it.

torch (miniz), Python's zipfile and unpackers differ in what they do with data around the archive,
with headers that contradict each other, with extra fields and with names. Here everything on
which they could differ is an error, for packages of every format; `check_canonical` allows in
addition the one form of format 3 only.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from nequip_core.archive.member_names import duplicate_name, name_fault
from nequip_core.archive.zip_records import (
    CENTRAL,
    CENTRAL_SIGNATURE,
    DESCRIPTOR_SIGNATURE,
    END,
    END64,
    END64_SIGNATURE,
    END_SIGNATURE,
    FULL16,
    FULL32,
    LOCAL,
    LOCAL_SIGNATURE,
    LOCATOR64,
    LOCATOR64_SIGNATURE,
    ZIP64_FIELD,
    Record,
    central_header,
    end_records,
    local_header,
)

__all__ = [
    "LARGEST_DIRECTORY",
    "MOST_MEMBERS",
    "CompressedError",
    "StructureError",
    "check_canonical",
    "read_records",
]

LARGEST_DIRECTORY = 16 * 2**20
"""Bytes that the central directory may have."""
MOST_MEMBERS = 65_534
"""Members that a package may have."""

_UTF8, _DESCRIPTOR = 0x800, 0x8
_ENCRYPTION = 0x1 | 0x40 | 0x2000
_NEWEST_VERSION = 45  # of the zip format that a member needs: that of zip64
_DOS_FOLDER = 0x10  # miniz extracts nothing for such a member, whatever its data


class StructureError(Exception):
    """What is wrong with a zip file, as the end of a sentence."""


class CompressedError(StructureError):
    """A member is compressed, which no writer of packages does."""


@dataclass(frozen=True, slots=True)
class _End:
    """Where the central directory lies, by the end records; `end` is where these start."""

    count: int
    size: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Central:
    record: Record
    flags: int


def read_records(file: BinaryIO, length: int) -> list[tuple[Record, int]]:
    """Return the members in the order of the central directory, each with where its data start.

    Args:
        file: the open file.
        length: its size in bytes.

    Raises:
        StructureError: the structure is damaged, ambiguous or not allowed in a package.
    """
    end = _read_end(file, length)
    directory = _read_at(file, end.start, end.size)
    members = _parse_directory(directory, end.count)
    names = [member.record.name for member in members]
    for name in names:
        fault = name_fault(name)
        if fault is not None:
            raise StructureError(f"the member name {_shown(name)} {fault}")
    twice = duplicate_name(names)
    if twice is not None:
        raise StructureError(f"it has two members named {twice[0]!a} and {twice[1]!a}")
    starts = _check_layout(file, members, end.start)
    return [(member.record, starts[member.record.header]) for member in members]


def check_canonical(file: BinaryIO, length: int, records: Sequence[Record]) -> None:
    """Check that a file has the one form that format 3 allows for its members.

    Args:
        file: the open file, of which `records` were read.
        length: its size in bytes.
        records: its members in the order of the central directory.

    Raises:
        StructureError: it has another form; the text names the first member that is to blame.
    """
    position = 0
    directory = []
    last = ""
    for record in records:
        if not record.name.isascii():
            raise StructureError(f"the member name {_shown(record.name)} is not ASCII")
        if record.name < last:
            raise StructureError(f"'{record.name}' stands after '{last}': members must be sorted")
        if record.header != position:
            raise StructureError(f"'{record.name}' does not follow the member before it")
        expected = local_header(record)
        if _read_at(file, position, len(expected)) != expected:
            raise StructureError(f"the local header of '{record.name}' is not that of format 3")
        position += len(expected) + record.size
        last = record.name
        directory.append(central_header(record))
    tail = b"".join(directory)
    start = position
    for record, expected in zip(records, directory, strict=True):
        if _read_at(file, position, len(expected)) != expected:
            raise StructureError(f"the directory entry of '{record.name}' is not that of format 3")
        position += len(expected)
    expected = end_records(len(records), len(tail), start)
    if _read_at(file, position, min(length - position, FULL16)) != expected:
        raise StructureError("its end records are not those of format 3")


def _shown(name: str) -> str:
    return f"{name[:60]!a}{'...' if len(name) > 60 else ''}"


def _read_at(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    content = file.read(size)
    if len(content) != size:
        raise StructureError(f"it ends within what should be at byte {start}")
    return content


def _read_end(file: BinaryIO, length: int) -> _End:
    place = length - END.size
    if place < 0:
        raise StructureError("it has no end record")
    fields = END.unpack(_read_at(file, place, END.size))
    signature, disk, first_disk, here, count, size, start, comment = fields
    if signature != END_SIGNATURE:
        file.seek(max(0, place - FULL16))
        if END_SIGNATURE in file.read():
            raise StructureError("it has a comment, or data after its end record")
        raise StructureError("it has no end record")
    if comment:
        raise StructureError("it has a comment, or data after its end record")
    if disk or first_disk or here != count:
        raise StructureError("it is one volume of several")
    end = _read_end64(file, place, (count, size, start)) or _End(count, size, start, place)
    if end.count > MOST_MEMBERS:
        raise StructureError(f"it claims {end.count} members, more than {MOST_MEMBERS}")
    if end.size > LARGEST_DIRECTORY:
        raise StructureError(f"it claims a directory of {end.size} bytes")
    if end.start + end.size != end.end:
        raise StructureError(
            f"its directory is said to span bytes {end.start} to {end.start + end.size}, "
            f"but its end record stands at byte {end.end}"
        )
    return end


def _read_end64(file: BinaryIO, end: int, short: tuple[int, int, int]) -> _End | None:
    """Return what the zip64 end records say, or None if there are none."""
    place = end - LOCATOR64.size
    if place < 0 or _read_at(file, place, 4) != LOCATOR64_SIGNATURE:
        return None
    _, disk, record, disks = LOCATOR64.unpack(_read_at(file, place, LOCATOR64.size))
    place -= END64.size
    if record != place or disk or disks != 1:
        raise StructureError("its zip64 end record is not where it is said to be")
    fields = END64.unpack(_read_at(file, place, END64.size))
    signature, rest, _, _, this_disk, first_disk, here, count, size, start = fields
    if signature != END64_SIGNATURE or rest != END64.size - 12 or this_disk or first_disk:
        raise StructureError("its zip64 end record is damaged")
    wide = ((count, FULL16), (size, FULL32), (start, FULL32))
    if here != count or any(
        given not in (value, full) for given, (value, full) in zip(short, wide, strict=True)
    ):
        raise StructureError("its end record and its zip64 end record contradict each other")
    return _End(count, size, start, place)


def _parse_directory(directory: bytes, count: int) -> list[_Central]:
    members: list[_Central] = []
    position = 0
    for _ in range(count):
        if len(directory) - position < CENTRAL.size:
            raise StructureError(f"its directory ends after {len(members)} of {count} members")
        fields = CENTRAL.unpack_from(directory, position)
        name_length, extra_length, comment_length = fields[10:13]
        name_start = position + CENTRAL.size
        extra_start = name_start + name_length
        position = extra_start + extra_length + comment_length
        if fields[0] != CENTRAL_SIGNATURE or position > len(directory):
            raise StructureError(f"its directory is damaged after {len(members)} members")
        name = _decoded(directory[name_start:extra_start], fields[3])
        if comment_length:
            raise StructureError(f"the member {_shown(name)} has a comment")
        extra = directory[extra_start:position]
        members.append(_central(name, fields, extra))
    if position != len(directory):
        raise StructureError(f"its directory holds more than the {count} members it claims")
    return members


def _decoded(name: bytes, flags: int) -> str:
    """Return a member's name; one that is neither ASCII nor said to be UTF-8 is an error."""
    try:
        return name.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        shown = _shown(name.decode("latin-1"))
        raise StructureError(f"the member name {shown} has a character outside of ASCII") from None


def _central(name: str, fields: tuple[int, ...], extra: bytes) -> _Central:
    _, _, needed, flags, method, _, _, crc, packed, size, *_, disk, _, attributes, header = fields
    if flags & _ENCRYPTION:
        raise StructureError(f"the member {_shown(name)} is encrypted")
    if flags & ~(_UTF8 | _DESCRIPTOR):
        raise StructureError(f"the member {_shown(name)} has the unknown flags {flags:#x}")
    if needed > _NEWEST_VERSION:
        raise StructureError(f"the member {_shown(name)} needs version {needed / 10} of zip")
    if method:
        raise CompressedError(f"the member {_shown(name)} is compressed")
    if disk:
        raise StructureError("it is one volume of several")
    if attributes & _DOS_FOLDER:
        raise StructureError(f"the member {_shown(name)} is marked as a folder")
    packed, size, header = _widened(name, (packed, size, header), extra)
    if packed != size:
        raise CompressedError(f"the member {_shown(name)} is compressed")
    return _Central(Record(name, crc, size, header), flags)


def _widened(name: str, values: tuple[int, int, int], extra: bytes) -> tuple[int, int, int]:
    """Return packed size, size and header position, those of 32 bits replaced by their zip64."""
    packed, size, header = values
    wide = [value == FULL32 for value in (size, packed, header)]
    if not extra and not any(wide):
        return values
    expected = struct.pack("<2H", ZIP64_FIELD, 8 * sum(wide))
    if not any(wide) or extra[:4] != expected or len(extra) != 4 + 8 * sum(wide):
        raise StructureError(f"the member {_shown(name)} has extra fields that are not allowed")
    found = iter(struct.unpack(f"<{sum(wide)}Q", extra[4:]))
    size, packed, header = (
        next(found) if is_wide else value
        for is_wide, value in zip(wide, (size, packed, header), strict=True)
    )
    return packed, size, header


def _check_layout(file: BinaryIO, members: list[_Central], end: int) -> dict[int, int]:
    """Return where data start, by header position; members must fill the file up to `end`."""
    starts: dict[int, int] = {}
    position = 0
    for member in sorted(members, key=lambda member: member.record.header):
        record = member.record
        if record.header > position:
            raise StructureError(
                f"there are {record.header - position} bytes of no member before '{record.name}'"
            )
        if record.header < position:
            raise StructureError(f"the member '{record.name}' overlaps another one")
        start = _check_local(file, member, end)
        position = start + record.size
        if position > end:
            raise StructureError(
                f"the member '{record.name}' claims {record.size} bytes, more than the file has"
            )
        if member.flags & _DESCRIPTOR:
            position += _check_descriptor(file, record, position, end)
        starts[record.header] = start
    if position != end:
        raise StructureError(f"there are {end - position} bytes of no member before its directory")
    return starts


def _check_local(file: BinaryIO, member: _Central, end: int) -> int:
    """Return where the data of a member start; its local header must agree with the directory."""
    record = member.record
    if record.header + LOCAL.size > end:
        raise StructureError(f"the member '{record.name}' lies outside of the file")
    fields = LOCAL.unpack(_read_at(file, record.header, LOCAL.size))
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
    if signature != LOCAL_SIGNATURE:
        raise StructureError(f"the local header of '{record.name}' is damaged")
    name = _read_at(file, record.header + LOCAL.size, name_length)
    same = name == record.name.encode("utf-8") and flags == member.flags and method == 0
    deferred = member.flags & _DESCRIPTOR and crc == 0 and {packed, size} <= {0, FULL32}
    if not deferred:
        sizes = {record.size, FULL32} if record.size >= FULL32 else {record.size}
        same = same and crc == record.crc and packed in sizes and size in sizes
    if not same:
        raise StructureError(f"local header and directory contradict each other at '{record.name}'")
    return record.header + LOCAL.size + name_length + extra_length


def _check_descriptor(file: BinaryIO, record: Record, place: int, end: int) -> int:
    """Return the length of the data descriptor at `place`."""
    for form in ("<4s3I", "<4sI2Q"):
        layout = struct.Struct(form)
        if place + layout.size > end:
            continue
        expected = (DESCRIPTOR_SIGNATURE, record.crc, record.size, record.size)
        if layout.unpack(_read_at(file, place, layout.size)) == expected:
            return layout.size
    raise StructureError(f"data descriptor and directory contradict each other at '{record.name}'")
