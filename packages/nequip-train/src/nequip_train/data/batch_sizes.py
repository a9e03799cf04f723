"""Batches of a largest number of atoms and edges, for frames of different sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from nequip_core.errors import ConfigError, DataError

__all__ = ["SizeLimitedBatchSampler"]

# Batches more than one order of the frames needs, so that nearly every other order needs no more.
_SPARE = 0.02


class SizeLimitedBatchSampler(Sampler[list[int]]):
    """Batches of at most so many atoms, edges and frames, for the loader's ``batch_sampler``.

    Frames are taken in order, and if shuffled in another random order in every epoch, until the
    next one would not fit. Every frame is in one batch. The number of batches is the same in all
    epochs, as schedules and progress need it: where fewer would do, the ones of most frames are
    halved, and where an order needs more, a kept one is used, its batches shuffled.

    Memory for training grows with the number of edges, so `max_edges` is what keeps it bounded.
    Among several processes the limits are those of each.

    Args:
        dataset: the data set; given by the data module.
        max_atoms: largest number of atoms of a batch, None for any.
        max_edges: largest number of edges, likewise.
        max_frames: largest number of frames, likewise.
        shuffle: whether to take frames in a random order.
        generator: decides the order; given by the data module, from its seed.

    Raises:
        ConfigError: there is no limit, or one that is no positive integer.
        DataError: a frame is larger than a batch may be; the message names it.
    """

    def __init__(
        self,
        dataset: Any,
        max_atoms: int | None = None,
        max_edges: int | None = None,
        max_frames: int | None = None,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        limits = {"max_atoms": max_atoms, "max_edges": max_edges, "max_frames": max_frames}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        for name, limit in given.items():
            if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
                raise ConfigError(f"{name} must be a positive integer, got {limit!r}")
        if not given:
            raise ConfigError("a batch needs a limit: max_edges, max_atoms or max_frames")
        self.shuffle = bool(shuffle)
        self.generator = generator
        self._sizes = _sizes(dataset, given)
        self._limits = list(given.values())
        _check_each(dataset, self._sizes, given)
        count = len(self._sizes)
        order: Sequence[int] = range(count)
        if shuffle:
            # Of its own, so that the orders of the epochs do not depend on this one.
            order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
        self._kept = self._filled(order)
        spare = math.ceil(_SPARE * len(self._kept)) if shuffle else 0
        self._count = min(len(self._kept) + spare, count)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each batch."""
        if not self.shuffle:
            yield from self._kept
            return
        order = torch.randperm(len(self._sizes), generator=self.generator).tolist()
        batches = self._filled(order)
        if len(batches) > self._count:
            order = torch.randperm(len(self._kept), generator=self.generator).tolist()
            batches = [self._kept[index] for index in order]
        yield from self._halved(batches)

    def _filled(self, order: Sequence[int]) -> list[list[int]]:
        """Return batches of the frames in this order, each as full as it can be."""
        batches: list[list[int]] = []
        room: list[int] = []
        sizes = self._sizes.tolist()
        for index in order:
            size = sizes[index]
            if batches and all(one <= left for one, left in zip(size, room, strict=True)):
                batches[-1].append(index)
            else:
                batches.append([index])
                room = list(self._limits)
            room = [left - one for one, left in zip(size, room, strict=True)]
        return batches

    def _halved(self, batches: list[list[int]]) -> list[list[int]]:
        """Return `_count` batches, in the same order, the ones of most frames being halved."""
        while len(batches) < self._count:
            missing = self._count - len(batches)
            order = sorted(range(len(batches)), key=lambda index: (-len(batches[index]), index))
            chosen = {index for index in order[:missing] if len(batches[index]) > 1}
            halves = []
            for index, batch in enumerate(batches):
                middle = len(batch) // 2
                halves += [batch[:middle], batch[middle:]] if index in chosen else [batch]
            batches = halves
        return batches


def _sizes(dataset: Any, limits: dict[str, int]) -> np.ndarray:
    """Return the sizes of all frames (F, limits), a column a limit."""
    everything = range(len(dataset))
    columns = []
    for name in limits:
        if name == "max_atoms":
            columns.append(dataset.num_atoms(everything))
        elif name == "max_edges":
            columns.append(dataset.num_edges(everything))
        else:
            columns.append([1] * len(dataset))
    return np.array(columns, dtype=np.int64).T


def _check_each(dataset: Any, sizes: np.ndarray, limits: dict[str, int]) -> None:
    """Raise a DataError if a frame alone is more than a batch may be."""
    for column, (name, limit) in enumerate(limits.items()):
        largest = int(sizes[:, column].argmax())
        size = int(sizes[largest, column])
        if size > limit:
            # The number that the frame has in its file.
            largest = getattr(dataset, "indices", range(len(sizes)))[largest]
            raise DataError(
                f"{name}: {limit} is less than the {size} {name.removeprefix('max_')} of frame "
                f"{largest} of {dataset} alone; raise it to {size} or more"
            )
