"""A data module of files that ASE reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nequip_core.errors import ConfigError
from nequip_train.data.datamodules import PARTS, Configs, NequIPDataModule, listed

__all__ = ["ASEDataModule"]


class ASEDataModule(NequIPDataModule):
    """A `NequIPDataModule` of files that ASE reads.

    Args:
        seed: see `NequIPDataModule`.
        train_file_path: path, or list of paths, of training data.
        val_file_path: likewise, of validation data.
        test_file_path: likewise, of test data.
        predict_file_path: likewise, of data to predict.
        split_dataset: see `NequIPDataModule`, with ``file_path`` in place of ``dataset``.
        transforms: configs of the transforms of every data set.
        ase_args: see `nequip_train.data.datasets.ASEDataset`.
        include_keys: see there.
        exclude_keys: see there.
        key_mapping: see there.
        energy_units: see there.
        length_units: see there.
        **kwargs: loaders and statistics of `NequIPDataModule`.
    """

    def __init__(
        self,
        seed: int,
        train_file_path: str | Sequence[str] = (),
        val_file_path: str | Sequence[str] = (),
        test_file_path: str | Sequence[str] = (),
        predict_file_path: str | Sequence[str] = (),
        split_dataset: Configs = None,
        transforms: Sequence[Any] = (),
        ase_args: Mapping[str, Any] | None = None,
        include_keys: Sequence[str] = (),
        exclude_keys: Sequence[str] = (),
        key_mapping: Mapping[str, str] | None = None,
        energy_units: str | None = None,
        length_units: str | None = None,
        **kwargs: Any,
    ) -> None:
        def config(path: str) -> dict[str, Any]:
            return {
                "_target_": "nequip.data.dataset.ASEDataset",
                "file_path": path,
                "transforms": list(transforms),
                "ase_args": dict(ase_args or {}),
                "include_keys": list(include_keys),
                "exclude_keys": list(exclude_keys),
                "key_mapping": dict(key_mapping or {}),
                "energy_units": energy_units,
                "length_units": length_units,
            }

        splits = []
        for item in listed(split_dataset):
            if "file_path" not in item:
                raise ConfigError(
                    f"an item of split_dataset lacks 'file_path', it has only {sorted(item)}"
                )
            split = {key: value for key, value in item.items() if key != "file_path"}
            splits.append({**split, "dataset": config(item["file_path"])})
        paths = (train_file_path, val_file_path, test_file_path, predict_file_path)
        files: dict[str, Any] = {
            f"{part}_dataset": [config(path) for path in listed(value)]
            for part, value in zip(PARTS, paths, strict=True)
        }
        super().__init__(seed=seed, split_dataset=splits, **files, **kwargs)
