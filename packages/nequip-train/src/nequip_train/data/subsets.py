"""Parts of data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.errors import ConfigError, closest
from nequip_core.frames import Frame
from nequip_train.data.datasets import AtomicDataset

__all__ = ["RandomSplitAndIndexDataset", "SubsetByRandomSlice"]


class _Subset(AtomicDataset):
    """Some frames of another data set, in an order of their own; the other's transforms apply."""

    def __init__(self, dataset: AtomicDataset, indices: Sequence[int]) -> None:
        super().__init__((), dataset.energy_units, dataset.length_units)
        self.dataset = dataset
        self.indices = list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def files(self) -> list[str] | None:
        return self.dataset.files()

    def keys_in_files(self) -> list[str]:
        return self.dataset.keys_in_files()

    def __str__(self) -> str:
        return str(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> list[Frame]:
        # Asking the whole data set keeps its frame numbers in messages.
        wanted = [self.indices[self._in_range(index)] for index in indices]
        return self.dataset.__getitems__(wanted)

    def num_atoms(self, indices: Sequence[int]) -> list[int]:
        return self.dataset.num_atoms([self.indices[index] for index in indices])

    def num_edges(self, indices: Sequence[int]) -> list[int]:
        return self.dataset.num_edges([self.indices[index] for index in indices])

    def _get_data_list(self, indices: list[int]) -> list[Frame]:
        return self.dataset._get_data_list([self.indices[index] for index in indices])


class SubsetByRandomSlice(_Subset):
    """``permutation[start:start + length]`` of a data set, by a seeded random permutation.

    Args:
        dataset: the whole data set.
        start: first place of the permutation to take.
        length: number of frames.
        seed: seed of the permutation.
    """

    def __init__(self, dataset: AtomicDataset, start: int, length: int, seed: int) -> None:
        if start < 0 or length < 1 or start + length > len(dataset):
            raise ConfigError(
                f"frames {start} to {start + length} of a permutation of {dataset}, which has "
                f"only {len(dataset)} frames"
            )
        generator = torch.Generator().manual_seed(seed)
        permutation = torch.randperm(len(dataset), generator=generator).tolist()
        super().__init__(dataset, permutation[start : start + length])


class RandomSplitAndIndexDataset(_Subset):
    """One part of a seeded random split of a data set.

    Args:
        dataset: the whole data set.
        split_dict: name of a part -> number of frames, or fraction where all parts are fractions
            with sum 1. The order of the parts matters for which frames they get.
        dataset_key: name of the part to take.
        seed: seed of the split.
    """

    def __init__(
        self,
        dataset: AtomicDataset,
        split_dict: Mapping[str, int | float],
        dataset_key: str,
        seed: int,
    ) -> None:
        if dataset_key not in split_dict:
            raise ConfigError(
                f"the split has no part '{dataset_key}', only {sorted(split_dict)}"
                f"{closest(dataset_key, list(split_dict))}"
            )
        try:
            parts: list[Any] = torch.utils.data.random_split(
                range(len(dataset)),  # type: ignore[arg-type]
                list(split_dict.values()),
                generator=torch.Generator().manual_seed(seed),
            )
        except ValueError as error:
            raise ConfigError(
                f"cannot split the {len(dataset)} frames of {dataset} into {dict(split_dict)}: "
                "give fractions with sum 1, or numbers of frames whose sum is the whole"
            ) from error
        part = parts[list(split_dict).index(dataset_key)]
        if len(part) == 0:
            raise ConfigError(
                f"the part '{dataset_key}' of the split {dict(split_dict)} of {dataset} is empty: "
                f"there are only {len(dataset)} frames"
            )
        super().__init__(dataset, list(part.indices))
