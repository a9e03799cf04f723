"""Errors of predictions, summed up structure by structure: nothing grows with their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nequip_core.fields import FORCE_KEY, STRESS_KEY, TOTAL_ENERGY_KEY
from nequip_integrations.evaluation.reading import LABELS, Sample

__all__ = ["ALL", "QUANTITIES", "UNITS", "ErrorSums", "Errors"]

ALL = ("all", "")
"""The group of everything; others are ``("type", name)`` and ``("config_type", name)``."""

QUANTITIES = {TOTAL_ENERGY_KEY: "energy per atom", FORCE_KEY: "forces", STRESS_KEY: "stress"}
"""What is compared, by its field."""

UNITS = {TOTAL_ENERGY_KEY: "eV/atom", FORCE_KEY: "eV/A", STRESS_KEY: "eV/A^3"}
"""Unit of every number, by its field."""

Group = tuple[str, str]
_MOST_POINTS = 4000


class ErrorSums:
    """Errors of one quantity in one group."""

    def __init__(self) -> None:
        self.count = 0
        self._absolute = self._squared = self._mean = self._deviations = 0.0
        self.largest = 0.0
        self.worst: tuple[str, int] | None = None
        """File and place of the structure with the largest error."""
        # Points for figures: each value gets a random number, the smallest ones stay.
        self._random = np.random.default_rng(0)
        self._points = np.empty((3, 0))

    def add(self, predicted: np.ndarray, reference: np.ndarray, sample: Sample) -> None:
        """Add the values of one structure; a reference that is NaN is one that is missing."""
        here = np.isfinite(reference)
        values, reference = predicted[here], reference[here]
        if not values.size:
            return
        errors = np.abs(values - reference)
        if self.worst is None or errors.max() > self.largest:
            self.worst = (sample.file, sample.index)
        self.largest = max(self.largest, float(errors.max()))
        self._absolute += float(errors.sum())
        self._squared += float((errors**2).sum())
        # Chan, Golub, LeVeque, Am. Stat. 37, 242 (1983): stable for energies far from zero.
        mean, total = float(reference.mean()), self.count + reference.size
        distance = mean - self._mean
        self._deviations += float(((reference - mean) ** 2).sum())
        self._deviations += distance**2 * self.count * reference.size / total
        self._mean += distance * reference.size / total
        self.count = total
        drawn = np.stack([self._random.random(values.size), reference, values])
        points = np.concatenate([self._points, drawn], axis=1)
        if points.shape[1] > _MOST_POINTS:
            points = points[:, np.argpartition(points[0], _MOST_POINTS)[:_MOST_POINTS]]
        self._points = points

    @property
    def mae(self) -> float:
        """Mean absolute error."""
        return self._absolute / self.count

    @property
    def rmse(self) -> float:
        """Root mean square error."""
        return float(np.sqrt(self._squared / self.count))

    @property
    def spread(self) -> float:
        """Standard deviation of the reference values."""
        return float(np.sqrt(self._deviations / self.count))

    @property
    def points(self) -> np.ndarray:
        """References and predictions (2, n): a random sample of bounded size."""
        return self._points[1:]


class Errors:
    """Errors of every quantity in every group.

    Args:
        name: what is compared with what.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.sums: dict[tuple[str, Group], ErrorSums] = {}

    def add(
        self, sample: Sample, predicted: Mapping[str, np.ndarray], reference: Mapping[str, Any]
    ) -> None:
        """Add one structure; what either side lacks is left out."""
        kinds = [ALL] if sample.config_type is None else [ALL, ("config_type", sample.config_type)]
        for field in LABELS:
            if field not in predicted or field not in reference:
                continue
            values, wanted = predicted[field], np.asarray(reference[field])
            if field == TOTAL_ENERGY_KEY:
                values, wanted = values / len(sample.atoms), wanted / len(sample.atoms)
            for group in kinds:
                self._sums(field, group).add(values, wanted, sample)
            if field == FORCE_KEY:
                symbols = np.asarray(sample.atoms.get_chemical_symbols())
                for symbol in np.unique(symbols):
                    chosen = symbols == symbol
                    sums = self._sums(field, ("type", str(symbol)))
                    sums.add(values[chosen], wanted[chosen], sample)

    def _sums(self, field: str, group: Group) -> ErrorSums:
        return self.sums.setdefault((field, group), ErrorSums())

    def rows(self) -> Iterator[tuple[str, Group, ErrorSums]]:
        """Yield field, group and errors: energy first, everything before parts of it."""
        order = {"all": 0, "type": 1, "config_type": 2}
        keys = [key for key, sums in self.sums.items() if sums.count]
        keys.sort(key=lambda key: (LABELS.index(key[0]), order[key[1][0]], key[1][1]))
        for field, group in keys:
            yield field, group, self.sums[field, group]

    def as_json(self) -> list[dict[str, Any]]:
        """Return the numbers, in the units of `UNITS`."""
        return [
            {
                "comparison": self.name,
                "quantity": QUANTITIES[field],
                "unit": UNITS[field],
                "group": kind,
                "name": name,
                "count": sums.count,
                "mae": sums.mae,
                "rmse": sums.rmse,
                "largest": sums.largest,
                "spread": sums.spread,
                "worst": None
                if sums.worst is None
                else {"file": sums.worst[0], "structure": sums.worst[1]},
            }
            for field, (kind, name), sums in self.rows()
        ]
