"""The share of each process in every batch, where several train together.

A batch of all processes together is what one process would have taken: the same frames in the same
order, for any size of the data set. Each process gets its part of it. A process for which a batch
has no frame left still takes part in the step, because the others wait for it: it gets a frame
that counts for nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, Sampler

from nequip_core.fields import EDGE_INDEX_KEY, EDGE_TYPE_KEY
from nequip_core.frames import Frame

__all__ = ["DealtBatches", "FillingCollate", "SplitBatches", "emptied_", "is_filling", "split"]

_FILLING = "_filling"


class SplitBatches(Sampler[list[int]]):
    """The parts of one process of batches that are taken together.

    Frame i of a batch goes to process i modulo the number of processes, so that parts differ by
    one frame at most; a part may be empty.

    Args:
        batches: the batches of all processes together, equal in every process.
        rank: the process.
        world_size: number of processes.
    """

    def __init__(self, batches: Sampler[list[int]], rank: int, world_size: int) -> None:
        self.batches = batches
        self.rank = rank
        self.world_size = world_size
        # Lightning tells it which epoch comes next.
        self.sampler = getattr(batches, "sampler", None)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of this process's frames, batch by batch."""
        for batch in self.batches:
            yield batch[self.rank :: self.world_size]

    def __len__(self) -> int:
        """Return the number of batches, the same in every process."""
        return len(self.batches)  # type: ignore[arg-type]


class DealtBatches(SplitBatches):
    """Every n-th batch of those that are made for one process each, n being their number.

    Where the batches do not go round, the last one of a process is empty.
    """

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of this process."""
        waiting = iter(self.batches)
        while group := list(itertools.islice(waiting, self.world_size)):
            yield group[self.rank] if self.rank < len(group) else []

    def __len__(self) -> int:
        """Return the number of batches, the same in every process."""
        return -(-super().__len__() // self.world_size)


def split(
    order: Sampler[int], batch_size: int, drop_last: bool, rank: int, world_size: int
) -> SplitBatches:
    """Return the parts of one process of what torch's loader would take.

    Args:
        order: the order of frames; it must be the same in every process.
        batch_size: number of frames of one process.
        drop_last: whether to leave out a last batch that is smaller.
        rank: the process.
        world_size: number of processes.
    """
    return SplitBatches(BatchSampler(order, batch_size * world_size, drop_last), rank, world_size)


class FillingCollate:
    """Makes the batch of a list of frames; of no frames, one that `is_filling`.

    Args:
        dataset: where a frame is taken from for such a batch.
        collate: makes the batch of one frame or more.
    """

    def __init__(self, dataset: Any, collate: Callable[[Sequence[Frame]], Frame]) -> None:
        self.dataset = dataset
        self.collate = collate

    def __call__(self, frames: Sequence[Frame]) -> Frame:
        """Return the batch."""
        if frames:
            return self.collate(frames)
        return {**self.collate([self.dataset[0]]), _FILLING: torch.ones(())}


def is_filling(batch: Frame) -> bool:
    """Return whether a batch counts for nothing, and take the mark from it."""
    return batch.pop(_FILLING, None) is not None


def emptied_(data: Frame) -> Frame:
    """Leave no frame in a batch, in place, and return it; gradients through it are zero."""
    for key, value in data.items():
        if EDGE_INDEX_KEY in key or key == EDGE_TYPE_KEY:
            data[key] = value[:, :0]
        elif value.dim():
            data[key] = value[:0]
    return data
