"""Which labels which data set has, and whether they are those that loss and metrics need."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from nequip_core.errors import DataError, closest
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    ATOMIC_NUMBERS_KEY,
    BATCH_KEY,
    CELL_KEY,
    DATASET_KEY,
    NUM_NODES_KEY,
    PBC_KEY,
    POSITIONS_KEY,
    get_field_type,
)

if TYPE_CHECKING:
    from nequip_train.data.datamodules import NequIPDataModule
    from nequip_train.data.datasets import AtomicDataset
    from nequip_train.metrics_manager import MetricsManager
    from nequip_train.modules import NequIPLightningModule

__all__ = [
    "Coverage",
    "Need",
    "check_labels",
    "label_coverage",
    "label_table",
    "managers_of",
    "needs_of",
]

_LOG = logging.getLogger(__name__)
_PARTS_OF_STAGE = {"train": ("train", "val"), "val": ("val",), "test": ("test",)}
_SETUP = {"train": "fit", "val": "validate", "test": "test"}
_INPUTS = {
    POSITIONS_KEY,
    CELL_KEY,
    PBC_KEY,
    ATOMIC_NUMBERS_KEY,
    ATOM_TYPE_KEY,
    BATCH_KEY,
    NUM_NODES_KEY,
    DATASET_KEY,
}
_LOSS = "train_loss_"


@dataclass
class Coverage:
    """The labels of one data set, counted in some of its frames.

    Attributes:
        part: train, val or test.
        name: what messages call the data set.
        frames: number of its frames.
        looked_at: number of the frames that were looked at, spread evenly.
        present: number of these that have a label, by field.
        labelled: number of these in which it is not NaN throughout, by field.
        sizes: atoms and edges of each of them.
        first_without: index of the first of these without a label, by field.
    """

    part: str
    name: str
    frames: int
    looked_at: int = 0
    present: dict[str, int] = field(default_factory=dict)
    labelled: dict[str, int] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    first_without: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Need:
    """A label that a term of the loss or a metric compares with.

    Attributes:
        name: of the term as it is logged.
        part: train, val or test.
        field: the label.
        ignores_nan: whether NaN stands for "no label".
    """

    name: str
    part: str
    field: str
    ignores_nan: bool


def managers_of(module: NequIPLightningModule) -> Iterator[tuple[str, str, MetricsManager]]:
    """Yield prefix of the logged names, part of the data, and manager of loss and metrics."""
    for step in ("step", "epoch"):
        if module.loss is not None:
            yield f"train_loss_{step}", "train", module.loss
        if module.train_metrics is not None:
            yield f"train_metric_{step}", "train", module.train_metrics
    for part, managers in (("val", module.val_metrics), ("test", module.test_metrics)):
        for index, manager in enumerate(managers or ()):
            yield f"{part}{index}_epoch", part, manager  # type: ignore[misc]


def needs_of(module: NequIPLightningModule) -> list[Need]:
    """Return what terms of loss and metrics compare with."""
    return [
        Need(f"{prefix}/{name}", part, label, manager.entries[name].ignore_nan)
        for prefix, part, manager in managers_of(module)
        for label, name in manager.required_fields().items()
    ]


def label_coverage(
    datamodule: NequIPDataModule, stages: Sequence[str], at_most: int
) -> list[tuple[Coverage, AtomicDataset]]:
    """Return the labels of every data set that is used, each with the data set.

    Args:
        datamodule: it is set up for the stages.
        stages: of train, val and test.
        at_most: number of frames to look at in each data set.
    """
    datamodule.prepare_data()
    found = []
    done = set()
    for stage in stages:
        datamodule.setup(_SETUP[stage])
        for part in _PARTS_OF_STAGE[stage]:
            if part not in done and part in datamodule.datasets:
                done.add(part)
                datasets = datamodule.datasets[part]
                found += [(_coverage(part, dataset, at_most), dataset) for dataset in datasets]
    return found


def _coverage(part: str, dataset: AtomicDataset, at_most: int) -> Coverage:
    total = len(dataset)
    count = min(total, at_most)
    indices = [index * total // count for index in range(count)]
    coverage = Coverage(part, str(dataset), total, count)
    for index in indices:
        frame = dataset[index]
        edges = frame["edge_index"].shape[1] if "edge_index" in frame else 0
        coverage.sizes.append((frame[POSITIONS_KEY].shape[0], edges))
        labels = {key for key in frame if _is_label(key)}
        for key in labels - set(coverage.present):
            coverage.present[key], coverage.labelled[key] = 0, 0
            if coverage.sizes[1:]:
                coverage.first_without[key] = indices[0]
        for key in coverage.present:
            if key not in labels:
                coverage.first_without.setdefault(key, index)
                continue
            coverage.present[key] += 1
            value = frame[key]
            empty = value.is_floating_point() and bool(torch.isnan(value).all())
            coverage.labelled[key] += not empty
    return coverage


def _is_label(key: str) -> bool:
    kind = get_field_type(key, error_on_unregistered=False)
    return kind in ("graph", "node") and key not in _INPUTS


def label_table(coverages: Sequence[Coverage], needs: Sequence[Need]) -> list[str]:
    """Return the lines of a table: a row a label, a column a data set, and what uses the label.

    A cell says in how many of the frames that were looked at the label is there and not NaN.
    """
    wanted: dict[str, list[str]] = {}
    for need in needs:
        uses = wanted.setdefault(need.field, [])
        use = "loss" if need.name.startswith(_LOSS) else f"{need.part} metrics"
        uses += [] if use in uses else [use]
    labels = sorted({key for coverage in coverages for key in coverage.present} | set(wanted))
    rows = [["label", *(f"{c.part} {c.name}" for c in coverages), "used by"]]
    for label in labels:
        cells = [f"{c.labelled.get(label, 0)}/{c.looked_at}" for c in coverages]
        rows.append([label, *cells, ", ".join(wanted.get(label, [])) or "nothing"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]


def check_labels(
    datamodule: NequIPDataModule,
    needs: Sequence[Need],
    stages: Sequence[str],
    at_most: int = 16,
) -> tuple[list[Coverage], list[str]]:
    """Return the labels of the data sets and the table of them, all needed ones being there.

    Args:
        datamodule: it is set up for the stages.
        needs: what loss and metrics compare with.
        stages: of train, val and test.
        at_most: number of frames to look at in each data set.

    Raises:
        DataError: frames lack a label that loss or metrics compare with; the message has the
            nearest keys of the file.
    """
    found = label_coverage(datamodule, stages, at_most)
    parts = {coverage.part for coverage, _ in found}
    needs = [need for need in needs if need.part in parts]
    for need in needs:
        for coverage, dataset in found:
            if coverage.part == need.part:
                _require(need, coverage, dataset)
    coverages = [coverage for coverage, _ in found]
    return coverages, label_table(coverages, needs)


def _require(need: Need, coverage: Coverage, dataset: AtomicDataset) -> None:
    """Raise a DataError if frames of a data set lack a label."""
    count = coverage.present.get(need.field, 0)
    where = f"{dataset} (data.{coverage.part})"
    looked_at = f"{coverage.looked_at} of its {coverage.frames} frames were looked at"
    if count == 0:
        raise DataError(
            f"'{need.name}' needs the label '{need.field}', but no frame of {where} has it "
            f"({looked_at}). {_nearest(need.field, coverage, dataset)}"
        )
    if count < coverage.looked_at:
        raise DataError(
            f"'{need.name}' needs the label '{need.field}', but {coverage.looked_at - count} "
            f"frames of {where} lack it, the first of them frame "
            f"{coverage.first_without[need.field]} ({looked_at}). Give them a label of NaN, by "
            "AddNaNStressTransform for example, and set 'ignore_nan' in loss and metrics; or leave "
            "them out"
        )
    if coverage.labelled[need.field] == 0 and need.ignores_nan:
        _LOG.warning(
            "'%s' will be NaN: every label '%s' of %s is (%s)",
            need.name,
            need.field,
            where,
            looked_at,
        )


def _nearest(label: str, coverage: Coverage, dataset: AtomicDataset) -> str:
    """Return which keys there are, the nearest first, and how to take one."""
    in_file = [key for key in dataset.keys_in_files() if key not in coverage.present]
    stem = label.rpartition("_")[2].rstrip("s")
    alike = [key for key in in_file if stem in key.casefold() or closest(key, [label])]
    if alike:
        listed = ", ".join(f"'{key}'" for key in alike[:3])
        return f"The file has {listed}: take it by key_mapping: {{{alike[0]}: {label}}}"
    there = f"The frames have {', '.join(sorted(coverage.present)) or 'no labels'}"
    if in_file:
        there += f", their file {', '.join(in_file)}"
    near = closest(label, list(coverage.present))
    return (
        f"{there}{near}. Labels under other names are taken by key_mapping; a label that "
        "is not there cannot be in loss or metrics"
    )
