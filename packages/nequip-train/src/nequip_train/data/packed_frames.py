"""Frames as bytes: safetensors records, with whole numbers as narrow as they can be.

A record holds tensors and nothing else, so reading one runs no code. Where a tensor is stored in a
narrower dtype, the one that it has in the frame is part of its name: ``edge_index|int64``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import torch
from safetensors.torch import load, save

from nequip_core.fields import EDGE_CELL_SHIFT_KEY
from nequip_core.frames import Frame

__all__ = ["PackedFrames", "packed", "unpacked"]

_NARROW = (torch.int8, torch.int16, torch.int32)
_DTYPES = {"int64": torch.int64, "float64": torch.float64}


def packed(frame: Frame) -> bytes:
    """Return the record of a frame, from which `unpacked` makes an equal one."""
    tensors = {}
    for key, value in frame.items():
        whole = value.detach().cpu().contiguous()
        narrow = _narrowed(key, whole)
        name = key if narrow is None else f"{key}|{str(whole.dtype).removeprefix('torch.')}"
        tensors[name] = whole if narrow is None else narrow
    return save(tensors)


def unpacked(record: bytes) -> Frame:
    """Return the frame of a record; its tensors share no memory with it."""
    frame = {}
    for name, value in load(record).items():
        key, _, dtype = name.partition("|")
        frame[key] = value.to(_DTYPES[dtype]) if dtype else value
    return frame


def _narrowed(key: str, value: torch.Tensor) -> torch.Tensor | None:
    """Return a tensor of whole numbers in a narrower dtype, None where that is not the same."""
    if not value.numel():
        return None
    if value.dtype == torch.int64:
        low, high = (int(bound) for bound in value.aminmax())
        for dtype in _NARROW:
            if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
                return value.to(dtype)
    if key == EDGE_CELL_SHIFT_KEY and value.dtype == torch.float64:
        narrow = value.to(torch.int8)
        # Bit for bit, which a negative zero is not.
        if torch.equal(narrow.double().view(torch.int64), value.view(torch.int64)):
            return narrow
    return None


class PackedFrames(Sequence[Frame]):
    """Frames in one block of memory, as records.

    Args:
        frames: they are taken one by one.
    """

    def __init__(self, frames: Iterable[Frame]) -> None:
        self._content = bytearray()
        self._ends = array("Q", [0])
        for frame in frames:
            self._content += packed(frame)
            self._ends.append(len(self._content))

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Frame: ...

    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...

    def __getitem__(self, index: Any) -> Any:
        """Return a frame, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        index %= len(self)
        return unpacked(bytes(self._content[self._ends[index] : self._ends[index + 1]]))

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in order."""
        return (self[index] for index in range(len(self)))
