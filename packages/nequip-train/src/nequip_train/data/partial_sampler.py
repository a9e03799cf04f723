"""A sampler whose epochs are shorter than the data set."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import torch

from nequip_core.errors import ConfigError

__all__ = ["PartialSampler"]


class PartialSampler(torch.utils.data.Sampler[int]):
    """Gives every epoch its own few samples, and all samples in turn over the epochs.

    Epoch e has the samples e n to (e + 1) n of the endless row of passes over the data set, so a
    pass may end within an epoch. Lightning says which epoch it is.

    Args:
        data_source: the data set; the data module gives it.
        shuffle: each pass in an order of its own, drawn from the seed of `generator` and the number
            of the pass alone, so that a continued run has the orders of an uninterrupted one.
        num_samples_per_epoch: n, at most the size of the data set, which is the default.
        generator: says the seed; the data module gives it.

    Raises:
        ConfigError: there are not so many samples.
    """

    def __init__(
        self,
        data_source: Sized,
        shuffle: bool = True,
        num_samples_per_epoch: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.total = len(data_source)
        self.num_samples = self.total if num_samples_per_epoch is None else num_samples_per_epoch
        if not 0 < self.num_samples <= self.total:
            raise ConfigError(
                f"num_samples_per_epoch of PartialSampler must be from 1 to {self.total}, the size "
                f"of the data set, got {num_samples_per_epoch}"
            )
        self.shuffle = shuffle
        self.seed = 0 if generator is None else generator.initial_seed()
        self.epoch = 0

    def step_epoch(self, epoch: int) -> None:
        """Set which epoch comes next."""
        self.epoch = epoch

    set_epoch = step_epoch

    def __len__(self) -> int:
        """Return the number of samples of an epoch."""
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        """Yield the samples of the epoch."""
        first = self.epoch * self.num_samples
        order: list[int] = []
        current = -1
        for place in range(first, first + self.num_samples):
            number, index = divmod(place, self.total)
            if number != current:
                current, order = number, self._order(number)
            yield order[index]

    def _order(self, number: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.total))
        generator = torch.Generator().manual_seed(self.seed + number)
        return torch.randperm(self.total, generator=generator).tolist()
