"""Labels and predictions of a validation or test: errors by type, and a sample to draw."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn

from nequip_core.fields import (
    ATOM_TYPE_KEY,
    ATOMIC_VIRIAL_KEY,
    BORN_CHARGE_KEY,
    CHARGE_KEY,
    DIELECTRIC_KEY,
    DIPOLE_KEY,
    FORCE_KEY,
    MAGMOM_KEY,
    NUM_NODES_KEY,
    PER_ATOM_ENERGY_KEY,
    POLARIZATION_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
    VIRIAL_KEY,
    get_field_type,
)
from nequip_core.files import atomic_path
from nequip_train.checking.labels import needs_of
from nequip_train.data.units import field_unit
from nequip_train.run_folder.record import guarded, only_warn

__all__ = ["ALL_TYPES", "ERRORS_FILE", "SAMPLES_FILE", "TABLE_FILE", "PredictionErrors", "Sample"]

ERRORS_FILE, TABLE_FILE, SAMPLES_FILE = "errors.json", "errors.csv", "predictions.npz"
ALL_TYPES = "all"
COLUMNS = ("dataset", "field", "type", "unit", "count", "mae", "rmse", "largest", "spread")
# What a model predicts; other fields of its output are inputs or intermediate results.
_PREDICTED = (
    TOTAL_ENERGY_KEY,
    FORCE_KEY,
    STRESS_KEY,
    VIRIAL_KEY,
    PER_ATOM_ENERGY_KEY,
    ATOMIC_VIRIAL_KEY,
    CHARGE_KEY,
    MAGMOM_KEY,
    DIPOLE_KEY,
    POLARIZATION_KEY,
    DIELECTRIC_KEY,
    BORN_CHARGE_KEY,
)
_SAMPLE_SIZE = 20_000  # values a field, shared by the types
_SMALLEST_SAMPLE = 500
_SEED = 0


class Sample:
    """Sums over all values that were seen, and a random sample of them.

    Args:
        size: largest number of values in the sample.

    Attributes:
        count: number of values seen.
        labels: sampled labels.
        predictions: the predictions of the same values.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        self._absolute = self._squared = self._largest = 0.0
        self._mean = self._deviations = 0.0
        self.labels = np.empty(0)
        self.predictions = np.empty(0)
        self._priorities = np.empty(0)
        # Of its own: drawing a sample must not move the random states of the run.
        self._random = np.random.default_rng(_SEED)

    def add(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Take in values, float64, of shape (n,); those with a NaN label are left out."""
        known = ~np.isnan(labels)
        labels, predictions = labels[known], predictions[known]
        if not len(labels):
            return
        errors = np.abs(predictions - labels)
        self._absolute += float(errors.sum())
        self._squared += float(np.square(errors).sum())
        self._largest = max(self._largest, float(errors.max()))
        # Chan's update of mean and sum of squared deviations: stable for large total energies.
        count, mean = len(labels), float(labels.mean())
        shift, total = mean - self._mean, self.count + count
        self._deviations += float(np.square(labels - mean).sum())
        self._deviations += shift**2 * self.count * count / total
        self._mean += shift * count / total
        self.count = total
        self._keep_some(labels, predictions)

    def _keep_some(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Keep the values with the highest of random priorities, which is a uniform sample."""
        self.labels = np.concatenate([self.labels, labels])
        self.predictions = np.concatenate([self.predictions, predictions])
        drawn = self._random.random(len(labels))
        self._priorities = np.concatenate([self._priorities, drawn])
        if len(self.labels) > self.size:
            kept = np.sort(np.argpartition(-self._priorities, self.size)[: self.size])
            self.labels, self.predictions = self.labels[kept], self.predictions[kept]
            self._priorities = self._priorities[kept]

    def numbers(self) -> dict[str, float]:
        """Return count, MAE, RMSE, largest error, and standard deviation of the labels."""
        return {
            "count": self.count,
            "mae": self._absolute / self.count,
            "rmse": math.sqrt(self._squared / self.count),
            "largest": self._largest,
            "spread": math.sqrt(self._deviations / self.count),
        }


class PredictionErrors(lightning.Callback):
    """Compares what the model predicts with the labels when a run validates or tests.

    Validations during the training are left alone. Whatever fails in here, with a model
    of somebody else for example, is one warning: the run goes on.

    Args:
        folder: where `ERRORS_FILE`, `TABLE_FILE` and `SAMPLES_FILE` go.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._samples: dict[tuple[str, str, str], Sample] = {}
        self._frames: dict[str, int] = {}

    @guarded
    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in a batch of the stage ``val``."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._take(module, outputs, batch, "val", dataloader_idx)

    @guarded
    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in a batch of the stage ``test``."""
        self._take(module, outputs, batch, "test", dataloader_idx)

    @guarded
    def on_validation_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Forget an earlier validation."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._forget("val")

    @guarded
    def on_test_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Forget an earlier test."""
        self._forget("test")

    @guarded
    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Write the errors of a validation."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._write(trainer)

    @guarded
    def on_test_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Write the errors of a test."""
        self._write(trainer)

    def _forget(self, part: str) -> None:
        self._samples = {k: v for k, v in self._samples.items() if not k[0].startswith(part)}
        self._frames = {k: v for k, v in self._frames.items() if not k.startswith(part)}

    def _take(self, module: Any, outputs: Any, batch: Any, part: str, dataset: int) -> None:
        output: Mapping[str, Any] = outputs[f"{part}_{dataset}_output"]
        self._compare(f"{part}{dataset}", module, output, batch)

    def _compare(self, dataset: str, module: Any, output: Mapping[str, Any], batch: Any) -> None:
        names = list(module.type_names)
        needed = {need.field for need in needs_of(module)}
        # Not the batch's own: one that only fills up the share of a process has no output.
        count = len(output[NUM_NODES_KEY])
        self._frames[dataset] = self._frames.get(dataset, 0) + count
        for field in _PREDICTED:
            label, prediction = batch.get(field), output.get(field)
            if label is None or prediction is None or label.shape != prediction.shape:
                continue
            # How a model divides the energy among atoms is its own affair unless it was trained.
            if field == PER_ATOM_ENERGY_KEY and field not in needed:
                continue
            if not torch.is_floating_point(label) or not label.numel():
                continue
            wanted, found = _numpy(label), _numpy(prediction)
            if field == TOTAL_ENERGY_KEY:
                atoms = _numpy(batch[NUM_NODES_KEY]).reshape(-1, 1)
                wanted, found = wanted / atoms, found / atoms
            rows = {ALL_TYPES: slice(None)}
            if get_field_type(field) == "node" and len(names) > 1:
                types = _numpy(batch[ATOM_TYPE_KEY]).reshape(-1)
                rows |= {name: types == index for index, name in enumerate(names)}
            for name, chosen in rows.items():
                sample = self._sample(dataset, field, name, len(rows))
                sample.add(wanted[chosen].ravel(), found[chosen].ravel())

    def _sample(self, dataset: str, field: str, name: str, parts: int) -> Sample:
        key = (dataset, field, name)
        if key not in self._samples:
            self._samples[key] = Sample(max(_SAMPLE_SIZE // parts, _SMALLEST_SAMPLE))
        return self._samples[key]

    def _write(self, trainer: lightning.Trainer) -> None:
        if not trainer.is_global_zero or not self._samples:
            return
        units = getattr(trainer.datamodule, "units", {})  # type: ignore[attr-defined]
        rows = []
        for (dataset, field, name), sample in self._samples.items():
            if sample.count:
                unit = field_unit(field, units) or ""
                unit += "/atom" if field == TOTAL_ENERGY_KEY else ""
                row = {"dataset": dataset, "field": field, "type": name, "unit": unit}
                rows.append({**row, **sample.numbers()})
        arrays = {}
        for (dataset, field, name), sample in self._samples.items():
            arrays[f"{dataset}|{field}|{name}"] = np.stack([sample.labels, sample.predictions])
        processes = trainer.world_size
        with only_warn("the errors by type are not written"):
            with atomic_path(self.folder / ERRORS_FILE) as file:
                content = {"frames": self._frames, "processes": processes, "errors": rows}
                file.write_text(json.dumps(content, indent=1))
            final = self.folder / TABLE_FILE
            with atomic_path(final) as file, file.open("w", newline="") as stream:
                table = csv.DictWriter(stream, COLUMNS)
                table.writeheader()
                table.writerows(rows)
            with atomic_path(self.folder / SAMPLES_FILE) as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().to(torch.float64).numpy()
