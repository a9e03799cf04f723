"""Data modules: which data sets a run uses, how they are split, loaded and measured."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning
import torch

from nequip_core.documented_names import canonical_name
from nequip_core.errors import ConfigError, NequIPError, closest
from nequip_core.frames import Frame
from nequip_core.instantiate import TARGET
from nequip_train.construction import build
from nequip_train.data.content_key import file_stamp
from nequip_train.data.datasets import AtomicDataset, UnreadASEDataset
from nequip_train.data.frame_cache import kept
from nequip_train.data.loaders import (
    LOADER,
    Surroundings,
    build_loader,
    collate,
    without_our_samplers,
)
from nequip_train.data.statistics import DataStatisticsManager
from nequip_train.data.statistics_pass import (
    dataset_files,
    kept_statistics,
    measured_statistics,
    statistics_cache,
)
from nequip_train.data.units import common_units

__all__ = ["PARTS", "Configs", "NequIPDataModule", "collate", "listed"]

_LOG = logging.getLogger(__name__)
PARTS = ("train", "val", "test", "predict")
_PARTS_OF_STAGE = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}
_NEEDED_BY_STAGE = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}
_ASE = canonical_name("nequip.data.dataset.ASEDataset")
_SPLIT = "nequip.data.dataset.RandomSplitAndIndexDataset"

Configs = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


def listed(value: Any) -> list[Any]:
    """Return a list or tuple as a list, None as an empty one, anything else as one of it."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


class NequIPDataModule(lightning.LightningDataModule):
    """Data sets, splits, loaders and statistics of a run, by configs.

    Args:
        seed: seed of the splits and of the order of batches.
        train_dataset: config, or list of configs, of an `AtomicDataset`.
        val_dataset: likewise.
        test_dataset: likewise.
        predict_dataset: likewise.
        split_dataset: config or list of configs with a ``dataset`` and the sizes of its parts
            ``train``, ``val``, ``test``, ``predict``: all fractions, or all numbers of frames. The
            parts come after the data sets named explicitly.
        train_dataloader: arguments of the training loader, with ``_target_`` if it is not torch's
            own. ``dataset`` and ``generator`` are given by the data module.
        val_dataloader: likewise.
        test_dataloader: likewise.
        predict_dataloader: likewise.
        stats_manager: config of a `DataStatisticsManager`.

    Attributes:
        num_datasets: number of data sets by part.
        datasets: the data sets by part, after `setup`.
        units: the units of ``energy`` and ``length`` that the data sets declare, None for none.

    Raises:
        ConfigError: a config is wrong, or data sets declare different units.
    """

    def __init__(
        self,
        seed: int,
        train_dataset: Configs = None,
        val_dataset: Configs = None,
        test_dataset: Configs = None,
        predict_dataset: Configs = None,
        split_dataset: Configs = None,
        train_dataloader: Mapping[str, Any] | None = None,
        val_dataloader: Mapping[str, Any] | None = None,
        test_dataloader: Mapping[str, Any] | None = None,
        predict_dataloader: Mapping[str, Any] | None = None,
        stats_manager: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ConfigError(f"seed must be an integer, got {seed!r}")
        self.seed = seed
        explicit = (train_dataset, val_dataset, test_dataset, predict_dataset)
        loaders = (train_dataloader, val_dataloader, test_dataloader, predict_dataloader)
        self.dataset_configs: dict[str, list[Any]] = {
            part: listed(configs) for part, configs in zip(PARTS, explicit, strict=True)
        }
        self.loader_configs = {
            part: _loader_config(config, part) for part, config in zip(PARTS, loaders, strict=True)
        }
        for split in listed(split_dataset):
            self._add_split(split)
        self.num_datasets = {part: len(self.dataset_configs[part]) for part in PARTS}
        self._statistics_config = stats_manager or {}
        self.stats_manager: DataStatisticsManager | None = None
        if stats_manager is not None:
            self.stats_manager = build(stats_manager, "stats_manager")
        # Two generators, so that validating more or less often does not change the training order.
        self.generators = {
            "train": torch.Generator().manual_seed(seed),
            "other": torch.Generator().manual_seed(seed),
        }
        self.datasets: dict[str, list[AtomicDataset]] = {}
        self._loaders: dict[str, list[Any]] = {}
        self._shared: dict[str, AtomicDataset] = {}
        self._stamps: dict[str, tuple[int, int] | None] = {}
        self.units = common_units(
            (f"data.{part}_dataset[{index}]", _declarations(config))
            for part in PARTS
            for index, config in enumerate(self.dataset_configs[part])
        )

    def _add_split(self, split: Mapping[str, Any]) -> None:
        parts = {part: split[part] for part in split if part in PARTS}
        unknown = [key for key in split if key not in (*PARTS, "dataset")]
        if unknown or "dataset" not in split or not parts:
            problem = f"has the unknown key '{unknown[0]}'" if unknown else "lacks a key"
            raise ConfigError(
                f"an item of split_dataset {problem}; it needs 'dataset' (for ASE-readable data: "
                f"'file_path') and sizes of some of {', '.join(PARTS)}"
                f"{closest(str(unknown[0]), [*PARTS, 'dataset', 'file_path']) if unknown else ''}"
            )
        for part in parts:
            self.dataset_configs[part].append(
                {
                    "_target_": _SPLIT,
                    "dataset": split["dataset"],
                    "split_dict": parts,
                    "dataset_key": part,
                    "seed": self.seed,
                }
            )

    def setup(self, stage: str) -> None:
        """Build the data sets that a stage needs: fit, validate, test or predict.

        Raises:
            ConfigError: there is no data set for the stage, or two have different units.
        """
        if not self.dataset_configs[_NEEDED_BY_STAGE[stage]]:
            part = _NEEDED_BY_STAGE[stage]
            raise ConfigError(
                f"'{part}' is to run but data has no {part} data set: give one by "
                f"split_dataset.{part}, {part}_dataset or {part}_file_path"
            )
        for part in _PARTS_OF_STAGE[stage]:
            if part not in self.datasets:
                self.datasets[part] = [
                    self._dataset(config, f"data.{part}_dataset[{index}]")
                    for index, config in enumerate(self.dataset_configs[part])
                ]
        # Once more, because some data sets know their units without being told.
        self.units = common_units(
            (f"{dataset} (data.{part}_dataset[{index}])", vars(dataset))
            for part, datasets in self.datasets.items()
            for index, dataset in enumerate(datasets)
        )

    def _dataset(self, config: Any, where: str) -> AtomicDataset:
        """Return the data set of a config; equal configs share one, so a file is read once."""
        if isinstance(config, AtomicDataset):
            return config
        key = json.dumps(config, sort_keys=False, default=repr)
        if key not in self._shared:
            nested = config.get("dataset") if isinstance(config, Mapping) else None
            injected = {}
            if isinstance(nested, Mapping):
                injected = {"dataset": self._dataset(nested, where)}
                config = {k: v for k, v in config.items() if k != "dataset"}
            dataset = build(_unread(config), where, **injected)
            self._stamps.update({file: file_stamp(file) for file in dataset_files(dataset) or ()})
            if isinstance(dataset, AtomicDataset) and not injected:
                try:
                    dataset = kept(dataset, config)
                except NequIPError as error:
                    raise type(error)(f"{where}: {error}") from error
            self._shared[key] = dataset
        return self._shared[key]

    def teardown(self, stage: str) -> None:
        """Forget loaders and parts; the generators keep their states, files stay read."""
        self.datasets.clear()
        self._loaders.clear()

    def _kept_loaders(self, part: str) -> list[Any]:
        generator = self.generators["train" if part == "train" else "other"]
        around, where = Surroundings.of(self.trainer), f"data.{part}_dataloader"
        self._loaders[part] = [
            build_loader(self.loader_configs[part], where, dataset, generator, around)
            for dataset in self.datasets[part]
        ]
        return self._loaders[part]

    def train_dataloader(self) -> Any:
        """Return the loader of the one training set."""
        return self._kept_loaders("train")[0]

    def val_dataloader(self) -> list[Any]:
        """Return one loader a validation set."""
        return self._kept_loaders("val")

    def test_dataloader(self) -> list[Any]:
        """Return one loader a test set."""
        return self._kept_loaders("test")

    def predict_dataloader(self) -> list[Any]:
        """Return one loader a prediction set."""
        return self._kept_loaders("predict")

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the generators and of loaders that have one."""
        state: dict[str, Any] = {
            "train_generator_state": self.generators["train"].get_state(),
            "generator_state": self.generators["other"].get_state(),
        }
        for part, loaders in self._loaders.items():
            for index, loader in enumerate(loaders):
                has_state = callable(getattr(loader, "state_dict", None))
                state[f"_{part}_dataloader_{index}"] = loader.state_dict() if has_state else {}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self.generators["train"].set_state(state_dict["train_generator_state"].cpu())
        self.generators["other"].set_state(state_dict["generator_state"].cpu())
        for part, loaders in self._loaders.items():
            for index, loader in enumerate(loaders):
                state = state_dict.get(f"_{part}_dataloader_{index}")
                if state and callable(getattr(loader, "load_state_dict", None)):
                    loader.load_state_dict(state)

    def get_statistics(self, dataset: str = "train", dataset_idx: int = 0) -> dict[str, Any]:
        """Return the statistics of one data set, ``{}`` without a statistics manager.

        They are of all its frames, whatever the training loader drops. The pass has its own order
        and takes nothing from the generators of the run. It shows a progress bar; where the same
        statistics of the same data were taken before, they are read instead, see
        `nequip_train.data.statistics_cache`.

        Args:
            dataset: train, val, test or predict.
            dataset_idx: which one of them.

        Raises:
            ConfigError: there is no such data set.
            DataError: a statistic cannot be taken; the message names it and the data set.
        """
        if self.stats_manager is None:
            return {}
        stages = {part: stage for stage, part in _NEEDED_BY_STAGE.items()}
        if dataset not in stages:
            raise ConfigError(f"there is no part '{dataset}' of the data, only {', '.join(PARTS)}")
        if not 0 <= dataset_idx < self.num_datasets[dataset]:
            raise ConfigError(
                f"there is no {dataset} data set {dataset_idx}: there are "
                f"{self.num_datasets[dataset]}"
            )
        self.prepare_data()
        self.setup(stages[dataset])
        manager = self.stats_manager
        loader = without_our_samplers(self.loader_configs[dataset]) | {"shuffle": False}
        if "drop_last" in loader:
            loader["drop_last"] = False
        loader |= manager.dataloader_kwargs
        chosen = self.datasets[dataset][dataset_idx]

        def measure() -> dict[str, Any]:
            # Any generator but the run's own.
            generator = torch.Generator().manual_seed(self.seed)
            batches = build_loader(loader, f"data.{dataset}_dataloader", chosen, generator)
            where = f"data.stats_manager: {chosen} (data.{dataset}_dataset[{dataset_idx}])"
            return measured_statistics(manager, batches, where)

        cache = statistics_cache(
            manager,
            chosen,
            self._stamps,
            type(self),
            dataset=self.dataset_configs[dataset][dataset_idx],
            loader=loader,
            statistics=self._statistics_config,
        )
        if cache is None:
            return measure()
        return kept_statistics(manager, cache, measure, self.statistics_units())

    def batches(self, part: str) -> Iterator[Frame]:
        """Yield batches of all frames of a part, in order; nothing of the run's order is used up.

        Args:
            part: train, val, test or predict.
        """
        self.prepare_data()
        self.setup({p: stage for stage, p in _NEEDED_BY_STAGE.items()}[part])
        size = int(self.loader_configs[part].get("batch_size") or 1)
        for dataset in self.datasets[part]:
            for start in range(0, len(dataset), size):
                yield collate([dataset[i] for i in range(start, min(start + size, len(dataset)))])

    def statistics_units(self) -> dict[str, str | None]:
        """Return the unit of every statistic by its name, see `DataStatisticsManager.units`."""
        return {} if self.stats_manager is None else self.stats_manager.units(self.units)


def _unread(config: Any) -> Any:
    """Return a config whose file is read when frames are needed: they may be in the cache."""
    if isinstance(config, Mapping) and canonical_name(str(config.get(TARGET))) == _ASE:
        return {**config, TARGET: f"{UnreadASEDataset.__module__}.{UnreadASEDataset.__qualname__}"}
    return config


def _declarations(config: Any) -> Mapping[str, Any]:
    """Return the mapping in which the config of a data set, or of a part of one, has its units."""
    while isinstance(config, Mapping) and "dataset" in config:
        config = config["dataset"]
    return config if isinstance(config, Mapping) else {}


def _loader_config(config: Mapping[str, Any] | None, part: str) -> dict[str, Any]:
    arguments = dict(config or {})
    for key in ("dataset", "generator"):
        if key in arguments:
            raise ConfigError(
                f"{part}_dataloader.{key}: is given by the data module, remove it from the config"
            )
    return {"_target_": LOADER, **arguments}
