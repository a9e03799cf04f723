"""The records of the zip format, as a package of format 3 has them: one rendering for each content.

Names and field orders follow PKWARE's APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (central
header), 4.3.14 and 4.3.15 (zip64 end records) and 4.3.16 (end record).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["Record", "central_header", "end_records", "local_header"]

LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR64 = struct.Struct("<4sIQI")
LOCAL_SIGNATURE, CENTRAL_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02"
END_SIGNATURE, END64_SIGNATURE, LOCATOR64_SIGNATURE = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
DESCRIPTOR_SIGNATURE = b"PK\x07\x08"

FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
ZIP64_FIELD = 1

_VERSION, _VERSION64 = 20, 45
_UNIX = 3 << 8
_DATE_1980 = (1 << 5) | 1
_MODE = 0o100600 << 16


@dataclass(frozen=True, slots=True)
class Record:
    """What the headers of one stored member say.

    Attributes:
        name: full name, the top folder included.
        crc: CRC-32 of the data.
        size: of the data in bytes.
        header: where its local header starts.
    """

    name: str
    crc: int
    size: int
    header: int


def local_header(record: Record) -> bytes:
    """Return the local header of a member of format 3."""
    extra = b""
    size = record.size
    if size >= FULL32:
        extra, size = struct.pack("<2H2Q", ZIP64_FIELD, 16, size, size), FULL32
    name = record.name.encode("ascii")
    version = _VERSION64 if extra else _VERSION
    fields = (version, 0, 0, 0, _DATE_1980, record.crc, size, size, len(name), len(extra))
    return LOCAL.pack(LOCAL_SIGNATURE, *fields) + name + extra


def central_header(record: Record) -> bytes:
    """Return the header in the central directory of a member of format 3."""
    size, header = record.size, record.header
    wide: list[int] = []
    if size >= FULL32:
        wide, size = [size, size], FULL32
    if header >= FULL32:
        wide, header = [*wide, header], FULL32
    extra = struct.pack(f"<2H{len(wide)}Q", ZIP64_FIELD, 8 * len(wide), *wide) if wide else b""
    name = record.name.encode("ascii")
    version = _VERSION64 if extra else _VERSION
    start = (_UNIX | version, version, 0, 0, 0, _DATE_1980, record.crc, size, size)
    rest = (len(name), len(extra), 0, 0, 0, _MODE, header)
    return CENTRAL.pack(CENTRAL_SIGNATURE, *start, *rest) + name + extra


def end_records(count: int, size: int, start: int) -> bytes:
    """Return what follows the central directory of a file of format 3.

    Args:
        count: number of members.
        size: of the central directory in bytes.
        start: of the central directory in the file.
    """
    records = b""
    if count >= FULL16 or size >= FULL32 or start >= FULL32:
        fields = (END64.size - 12, _UNIX | _VERSION64, _VERSION64, 0, 0, count, count, size, start)
        records = END64.pack(END64_SIGNATURE, *fields)
        records += LOCATOR64.pack(LOCATOR64_SIGNATURE, 0, start + size, 1)
    short = min(count, FULL16)
    return records + END.pack(
        END_SIGNATURE, 0, 0, short, short, min(size, FULL32), min(start, FULL32), 0
    )
