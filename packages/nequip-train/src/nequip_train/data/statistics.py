"""Statistics of a data set: managers that compute several in one pass.

All running values are float64. A statistic over the components of a vector field takes every
component as one number: the root mean square of the forces is that of their components, not of
their norms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch

from nequip_core.errors import ConfigError, DataError, closest
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    EDGE_INDEX_KEY,
    FORCE_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_core.frames import Frame
from nequip_train.data.modifiers import BaseModifier, NumNeighbors, PerAtomModifier, field_of
from nequip_train.data.running import (
    Count,
    Max,
    Mean,
    MeanAbsolute,
    Min,
    RootMeanSquare,
    StandardDeviation,
)
from nequip_train.data.units import Units

__all__ = [
    "CommonDataStatisticsManager",
    "Count",
    "DataStatisticsManager",
    "EnergyOnlyDataStatisticsManager",
    "Max",
    "Mean",
    "MeanAbsolute",
    "Min",
    "RootMeanSquare",
    "StandardDeviation",
]

_ENTRY_KEYS = ("field", "metric", "per_type", "ignore_nan", "name")
_MANAGED_LOADER_KEYS = ("dataset", "generator", "collate_fn")


class _Statistic:
    """One entry of a manager: what is measured, and one metric a type or type pair."""

    def __init__(self, entry: Mapping[str, Any], type_names: Sequence[str] | None) -> None:
        unknown = [key for key in entry if key not in _ENTRY_KEYS]
        if unknown:
            raise ConfigError(
                f"a statistic has no key '{unknown[0]}'{closest(str(unknown[0]), _ENTRY_KEYS)}"
            )
        for key in ("field", "metric"):
            if entry.get(key) is None:
                raise ConfigError(f"a statistic needs the key '{key}', got only {sorted(entry)}")
        field = entry["field"]
        self.modifier = BaseModifier(field) if isinstance(field, str) else field
        prefix = field if isinstance(field, str) else str(field)
        self.name: str = entry.get("name") or f"{prefix}_{entry['metric']}"
        self.ignore_nan = bool(entry.get("ignore_nan", False))
        # What a row belongs to, by the key of the table and the ending of the single name.
        self.labels: dict[str, str] = {}
        if entry.get("per_type", False):
            if not type_names:
                raise ConfigError(f"the per-type statistic '{self.name}' needs 'type_names'")
            if self.modifier.type == "graph":
                raise ConfigError(
                    f"the statistic '{self.name}' is of a graph field and cannot be per type"
                )
            self.labels = {name: name for name in type_names}
            self.num_types = len(self.labels)
            if self.modifier.type == "edge":
                self.labels = {f"{a}_{b}": f"{a}{b}" for a in type_names for b in type_names}
            expected = self.num_types ** (2 if self.modifier.type == "edge" else 1)
            if self.num_types < len(type_names) or len(self.labels) < expected:
                raise ConfigError(
                    f"the per-type statistic '{self.name}' cannot tell {list(type_names)} "
                    "or their pairs apart by name; rename one"
                )
        self.metrics = [deepcopy(entry["metric"]) for _ in self.labels or [""]]

    def update(self, data: Frame) -> None:
        """Take in a batch.

        Raises:
            DataError: the field is missing or NaN.
        """
        try:
            values = self.modifier(data)
        except DataError as error:
            raise DataError(f"the statistic '{self.name}': {error}") from error
        rows = self._row_labels(data) if self.labels else None
        for index, metric in enumerate(self.metrics):
            chosen = values if rows is None else values[rows == index]
            missing = torch.isnan(chosen)
            if missing.any():
                if not self.ignore_nan:
                    raise DataError(
                        f"the statistic '{self.name}' met NaN labels; set 'ignore_nan: true' on it "
                        "if they stand for missing ones"
                    )
                chosen = chosen[~missing]
            if chosen.numel():
                metric.update(chosen)

    def _row_labels(self, data: Frame) -> torch.Tensor:
        types = field_of(data, ATOM_TYPE_KEY).view(-1)
        if types.numel() and int(types.max()) >= self.num_types:
            raise DataError(
                f"the data has the atom type {int(types.max())}, but the statistics only know "
                f"{self.num_types} type_names"
            )
        if self.modifier.type == "node":
            return types
        centre, neighbour = data[EDGE_INDEX_KEY]
        return types[centre] * self.num_types + types[neighbour]

    def value(self) -> float | dict[str, float]:
        """Return the number, per type by label; NaN of nothing."""
        values = [
            float(metric.compute()) if metric.update_called else math.nan for metric in self.metrics
        ]
        return dict(zip(self.labels, values, strict=True)) if self.labels else values[0]

    def entries(self, value: float | dict[str, float]) -> dict[str, Any]:
        """Return a value under its name; per type also a tensor () of each under its own name."""
        if not isinstance(value, dict):
            return {self.name: value}
        single = {
            f"{self.name}_{self.labels[label]}": torch.tensor(number, dtype=torch.float64)
            for label, number in value.items()
        }
        return {self.name: value, **single}

    def names(self) -> list[str]:
        """Return the keys of `entries`."""
        return [self.name, *(f"{self.name}_{ending}" for ending in self.labels.values())]

    def unit(self, units: Units) -> str | None:
        """Return the unit of the value, "" if it has none, None if it is not known."""
        metric = self.metrics[0]
        if isinstance(metric, Count):
            return ""
        if not type(metric).__module__.startswith("nequip_train."):
            return None
        unit = self.modifier.unit(units)
        squared = isinstance(metric, StandardDeviation) and metric.squared
        return f"({unit})^2" if squared and unit else unit


class DataStatisticsManager:
    """Computes statistics of a data set in one pass.

    Args:
        metrics: one mapping a statistic, with the keys ``field`` (name or modifier), ``metric``
            (one of this module's, or any torchmetrics metric of one argument), ``per_type`` (one
            value a type; for edge fields one a pair, labelled ``centre_neighbour``),
            ``ignore_nan`` (NaN stands for "no label"), ``name`` (default: field and metric).
        dataloader_kwargs: arguments of the data loader to use instead of those of training.
        type_names: the model's type names in order.

    Raises:
        ConfigError: an entry is wrong, or two have the same name.
    """

    def __init__(
        self,
        metrics: Sequence[Mapping[str, Any]],
        dataloader_kwargs: Mapping[str, Any] | None = None,
        type_names: Sequence[str] | None = None,
    ) -> None:
        self.dataloader_kwargs = dict(dataloader_kwargs or {})
        for key in _MANAGED_LOADER_KEYS:
            if key in self.dataloader_kwargs:
                raise ConfigError(f"dataloader_kwargs must not contain '{key}'")
        self.type_names = list(type_names) if type_names is not None else None
        self.statistics = [_Statistic(entry, self.type_names) for entry in metrics]
        names = [statistic.name for statistic in self.statistics]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ConfigError(f"two statistics have the name '{repeated[0]}'; set 'name' on one")

    def names(self) -> list[str]:
        """Return the names of all values that `get_statistics` will return."""
        return [name for statistic in self.statistics for name in statistic.names()]

    def labels(self) -> dict[str, list[str]]:
        """Return the types or type pairs of every statistic by its name; none if not per type."""
        return {statistic.name: list(statistic.labels) for statistic in self.statistics}

    def get_statistics(self, batches: Iterable[Frame]) -> dict[str, Any]:
        """Return the statistics of batches by name.

        Returns:
            a float for every statistic, or ``{type: float}`` for a per-type one together with one
            tensor of shape () under ``name_TYPE`` for every type. A type that does not occur has
            NaN.

        Raises:
            DataError: there are no batches, a field is missing, or NaN without ``ignore_nan``.
        """
        for statistic in self.statistics:
            for metric in statistic.metrics:
                metric.reset()
        num_batches = 0
        for batch in batches:
            num_batches += 1
            for statistic in self.statistics:
                statistic.update(batch)
        if num_batches == 0:
            raise DataError("there is not a single frame to take statistics of")
        return self.expanded({statistic.name: statistic.value() for statistic in self.statistics})

    def expanded(self, values: Mapping[str, float | dict[str, float]]) -> dict[str, Any]:
        """Return what `get_statistics` returns, from one value a statistic."""
        results: dict[str, Any] = {}
        for statistic in self.statistics:
            results.update(statistic.entries(values[statistic.name]))
        return results

    def units(self, units: Units) -> dict[str, str | None]:
        """Return the unit of every statistic by its name.

        Args:
            units: those of ``energy`` and ``length``, None where undeclared.

        Returns:
            e.g. ``eV/atom``, or ``energy/atom`` if undeclared; "" for a number without unit; None
            where it is not known.
        """
        return {statistic.name: statistic.unit(units) for statistic in self.statistics}


def _neighbor_statistics() -> list[dict[str, Any]]:
    return [
        {"field": NumNeighbors(), "metric": Mean(), "name": "num_neighbors_mean"},
        {
            "field": NumNeighbors(),
            "metric": Mean(),
            "per_type": True,
            "name": "per_type_num_neighbors_mean",
        },
        {
            "field": PerAtomModifier(TOTAL_ENERGY_KEY),
            "metric": Mean(),
            "name": "per_atom_energy_mean",
        },
    ]


class CommonDataStatisticsManager(DataStatisticsManager):
    """The usual statistics of energies and forces.

    These are ``num_neighbors_mean``, ``per_type_num_neighbors_mean``, ``per_atom_energy_mean``,
    ``forces_rms`` and ``per_type_forces_rms``.

    Args:
        dataloader_kwargs: see `DataStatisticsManager`.
        type_names: see `DataStatisticsManager`.
    """

    def __init__(
        self,
        dataloader_kwargs: Mapping[str, Any] | None = None,
        type_names: Sequence[str] | None = None,
    ) -> None:
        forces = [
            {"field": FORCE_KEY, "metric": RootMeanSquare(), "name": "forces_rms"},
            {
                "field": FORCE_KEY,
                "metric": RootMeanSquare(),
                "per_type": True,
                "name": "per_type_forces_rms",
            },
        ]
        super().__init__([*_neighbor_statistics(), *forces], dataloader_kwargs, type_names)


class EnergyOnlyDataStatisticsManager(DataStatisticsManager):
    """The usual statistics of data without forces.

    These are ``num_neighbors_mean``, ``per_type_num_neighbors_mean``, ``per_atom_energy_mean``,
    ``per_atom_energy_std`` and ``total_energy_std``.

    Args:
        dataloader_kwargs: see `DataStatisticsManager`.
        type_names: see `DataStatisticsManager`.
    """

    def __init__(
        self,
        dataloader_kwargs: Mapping[str, Any] | None = None,
        type_names: Sequence[str] | None = None,
    ) -> None:
        spreads = [
            {
                "field": PerAtomModifier(TOTAL_ENERGY_KEY),
                "metric": StandardDeviation(),
                "name": "per_atom_energy_std",
            },
            {
                "field": TOTAL_ENERGY_KEY,
                "metric": StandardDeviation(),
                "name": "total_energy_std",
            },
        ]
        super().__init__([*_neighbor_statistics(), *spreads], dataloader_kwargs, type_names)
