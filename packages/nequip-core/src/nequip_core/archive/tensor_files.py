"""safetensors members: their headers are checked before their data are read.

The layout is a little-endian 64-bit length, a JSON header of that length, and the data: name ->
``dtype``, ``shape``, ``data_offsets`` (start and end, from the end of the header).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import BinaryIO

from nequip_core.archive.texts import TextError, is_integer, parse_json

__all__ = ["TensorHeader", "read_tensor_headers"]

LARGEST_HEADER = 16 * 2**20
_PREFIX = 8
_DIMENSIONS = 64
_WIDTHS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What the header says of one tensor.

    Attributes:
        dtype: as safetensors names it, ``F64`` for instance.
        shape: its shape.
        start: where its data start, counted from the start of the member.
        size: of its data in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def read_tensor_headers(
    file: BinaryIO, length: int
) -> tuple[dict[str, TensorHeader], dict[str, str]]:
    """Return the tensors of a safetensors file by name, and its ``__metadata__``.

    Only the header is read. The data of the tensors fill the rest, without gap or overlap.

    Args:
        file: open at the start of the content.
        length: of the content in bytes.

    Raises:
        TextError: the header is damaged, too large, or does not fit the length.
    """
    prefix = file.read(_PREFIX)
    size = int.from_bytes(prefix, "little")
    if len(prefix) < _PREFIX or size > min(LARGEST_HEADER, length - _PREFIX):
        raise TextError(f"claims a header of {size} bytes in a content of {length}")
    header = parse_json(file.read(size))
    if not isinstance(header, dict):
        raise TextError("has a header that is no mapping")
    texts = header.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise TextError("has '__metadata__' that is no mapping of text to text")
    first = _PREFIX + size
    tensors = {name: _tensor_header(name, value, first) for name, value in header.items()}
    position = first
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size)):
        if tensor.start != position:
            raise TextError(f"has a gap or an overlap before '{name}'")
        position += tensor.size
    if position != length:
        raise TextError(f"has data of {length - first} bytes, its header claims {position - first}")
    return tensors, texts


def _tensor_header(name: str, value: object, first: int) -> TensorHeader:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise TextError(f"has no dtype, shape and data_offsets for '{name}'")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _WIDTHS:
        raise TextError(f"has the unknown dtype {str(dtype)[:40]!r} for '{name}'")
    if not _are_counts(shape) or len(shape) > _DIMENSIONS:
        raise TextError(f"has a wrong shape for '{name}'")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise TextError(f"has wrong data_offsets for '{name}'")
    start, end = offsets
    if end - start != _WIDTHS[dtype] * math.prod(shape):
        raise TextError(f"has {end - start} bytes for '{name}', which do not fit its shape")
    return TensorHeader(dtype, tuple(shape), first + start, end - start)


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(
        is_integer(value) and 0 <= value < 2**63 for value in values
    )
