"""Going on in the middle of an epoch: the batches of the epoch without those already taken."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import lightning
import torch

__all__ = ["SkippingBatches", "rewind"]


class SkippingBatches:
    """The batches of a batch sampler without the first ones, the first time they are asked for.

    Skipped batches are drawn, so that random numbers are used as by a whole epoch, but no frame
    of them is loaded.

    Args:
        batches: the batch sampler.
        count: how many batches to skip.
    """

    def __init__(self, batches: Any, count: int) -> None:
        self.batches = batches
        self._left = count

    def __iter__(self) -> Iterator[Any]:
        """Yield lists of indices. Nothing is drawn before the first one is asked for."""
        count, self._left = self._left, 0
        yield from itertools.islice(iter(self.batches), count, None)

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return len(self.batches)


def rewind(trainer: lightning.Trainer, count: int) -> None:
    """Let the training loop go on with batch `count` of the epoch it is in.

    The generators of the loaders must be in the states that they had before the epoch.

    Args:
        trainer: a trainer whose training loop has its loaders.
        count: number of batches of the epoch that were taken already.
    """
    fit_loop = trainer.fit_loop
    combined, fetcher = fit_loop._combined_loader, fit_loop._data_fetcher
    if combined is None or fetcher is None:
        return
    # The iterator that Lightning has made, and workers that it has started, know another order.
    combined.reset()
    for loader in combined.flattened:
        _set_epoch(loader, trainer.current_epoch)
    by_index = all(_has_batches(loader) for loader in combined.flattened)
    with _skipping(combined.flattened, count if by_index else 0):
        iter(fetcher)
    if not by_index:
        for _ in range(count):
            next(fetcher)
        fetcher.fetched -= count


def _has_batches(loader: Any) -> bool:
    """Tell whether a loader draws lists of indices, which can be skipped without loading."""
    is_map_style = not isinstance(
        getattr(loader, "dataset", None), torch.utils.data.IterableDataset
    )
    is_loader = isinstance(loader, torch.utils.data.DataLoader)
    return is_loader and is_map_style and loader.batch_sampler is not None


@contextlib.contextmanager
def _skipping(loaders: list[Any], count: int) -> Iterator[None]:
    """Let iterators that are made in a ``with`` block skip batches."""
    if not count:
        yield
        return
    samplers = [loader.batch_sampler for loader in loaders]
    try:
        for loader, sampler in zip(loaders, samplers, strict=True):
            # A DataLoader refuses this by assignment, for fear that an iterator exists already.
            vars(loader)["batch_sampler"] = SkippingBatches(sampler, count)
        yield
    finally:
        for loader, sampler in zip(loaders, samplers, strict=True):
            vars(loader)["batch_sampler"] = sampler


def _set_epoch(loader: Any, epoch: int) -> None:
    """Tell samplers that shuffle by the number of the epoch which one it is."""
    batches = getattr(loader, "batch_sampler", None)
    for sampler in (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
        set_epoch = getattr(sampler, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
