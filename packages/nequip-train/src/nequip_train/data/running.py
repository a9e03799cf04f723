"""Running statistics: torchmetrics metrics of one argument, in float64.

All components of all values count as one number each, whatever the shape of the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torchmetrics

__all__ = ["Count", "Max", "Mean", "MeanAbsolute", "Min", "RootMeanSquare", "StandardDeviation"]


class _Running(torchmetrics.Metric):
    """Base of the statistics: an `update` with numbers, a `compute` of their statistic."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = None

    def _add(self, name: str, default: float, reduction: str) -> None:
        value = torch.tensor(default, dtype=torch.float64)
        self.add_state(name, default=value, dist_reduce_fx=reduction)


class Count(_Running):
    """The number of values."""

    count: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._add("count", 0.0, "sum")

    def update(self, values: torch.Tensor) -> None:
        """Take in values of any shape."""
        self.count += values.numel()

    def compute(self) -> torch.Tensor:
        """Return the number of values so far."""
        return self.count

    def __str__(self) -> str:
        """Return the suffix of automatic names."""
        return "count"


class Mean(_Running):
    """The arithmetic mean of all components of all values."""

    total: torch.Tensor
    count: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._add("total", 0.0, "sum")
        self._add("count", 0.0, "sum")

    def _transformed(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def update(self, values: torch.Tensor) -> None:
        """Take in values of any shape."""
        self.total += self._transformed(values.to(torch.float64)).sum()
        self.count += values.numel()

    def compute(self) -> torch.Tensor:
        """Return the mean; NaN of nothing."""
        return self.total / self.count

    def __str__(self) -> str:
        """Return the suffix of automatic names."""
        return "mean"


class MeanAbsolute(Mean):
    """The mean of the absolute values."""

    def _transformed(self, values: torch.Tensor) -> torch.Tensor:
        return values.abs()

    def __str__(self) -> str:
        """Return the suffix of automatic names."""
        return "mean_abs"


class RootMeanSquare(Mean):
    """The square root of the mean of the squares."""

    def _transformed(self, values: torch.Tensor) -> torch.Tensor:
        return values.square()

    def compute(self) -> torch.Tensor:
        """Return the root mean square; NaN of nothing."""
        return super().compute().sqrt()

    def __str__(self) -> str:
        """Return the suffix of automatic names."""
        return "rms"


def _merged_moments(moments: torch.Tensor) -> torch.Tensor:
    """Return the moments of rows of moments together.

    The moments are count, a pivot near the values, mean - pivot, and the sum of squared deviations
    from the mean. Only differences to the pivot are rounded, not the values themselves.

    Source: T. F. Chan, G. H. Golub, R. J. LeVeque, The American Statistician 37, 242 (1983).
    """
    merged = torch.zeros(4, dtype=torch.float64, device=moments.device)
    for row in moments:
        if row[0] == 0:
            continue
        if merged[0] == 0:
            merged = row.clone()
            continue
        count, pivot, mean, deviations = merged
        total = count + row[0]
        shift = (row[1] - pivot) + (row[2] - mean)
        new_deviations = deviations + row[3] + shift.square() * count * row[0] / total
        merged = torch.stack([total, pivot, mean + shift * row[0] / total, new_deviations])
    return merged


class StandardDeviation(_Running):
    """The standard deviation, or the variance, of all components of all values.

    Batches and processes are merged by their counts, means and squared deviations, so a spread
    that is small against the mean keeps its digits.

    Args:
        squared: return the variance.
        unbiased: divide by n - 1 instead of n.
        **kwargs: arguments of `torchmetrics.Metric`.
    """

    moments: torch.Tensor

    def __init__(self, squared: bool = False, unbiased: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.squared = squared
        self.unbiased = unbiased
        self.add_state(
            "moments", torch.zeros(4, dtype=torch.float64), dist_reduce_fx=_merged_moments
        )

    def update(self, values: torch.Tensor) -> None:
        """Take in values of any shape."""
        if values.numel() == 0:
            return
        values = values.to(torch.float64).reshape(-1)
        pivot = values[0]
        values = values - pivot
        mean = values.mean()
        count = torch.full_like(mean, float(values.numel()))
        new = torch.stack([count, pivot, mean, (values - mean).square().sum()])
        self.moments = _merged_moments(torch.stack([self.moments, new]))

    def compute(self) -> torch.Tensor:
        """Return the standard deviation; NaN of too few values."""
        variance = self.moments[3] / (self.moments[0] - float(self.unbiased))
        if self.moments[0] <= float(self.unbiased):
            variance = torch.full_like(variance, torch.nan)
        return variance if self.squared else variance.sqrt()

    def __str__(self) -> str:
        """Return the suffix of automatic names."""
        return "var" if self.squared else "std"


class _Extreme(_Running):
    """Base of `Max` and `Min`: the outermost component of all values."""

    kind: str
    pick: Callable[[torch.Tensor], torch.Tensor]
    outermost: torch.Tensor

    def __init__(self, abs: bool = False, **kwargs: Any) -> None:  # noqa: A002 - documented name
        super().__init__(**kwargs)
        self.abs = abs
        self._nothing = -math.inf if self.kind == "max" else math.inf
        self._add("outermost", self._nothing, self.kind)

    def update(self, values: torch.Tensor) -> None:
        """Take in values of any shape."""
        if values.numel():
            values = values.abs() if self.abs else values
            found = self.pick(values.to(torch.float64))
            self.outermost = self.pick(torch.stack([self.outermost, found]))

    def compute(self) -> torch.Tensor:
        """Return the outermost value; NaN of nothing."""
        return torch.where(self.outermost == self._nothing, torch.nan, self.outermost)

    def __str__(self) -> str:
        """Return the suffix of automatic names."""
        return f"abs{self.kind}" if self.abs else self.kind


class Max(_Extreme):
    """The largest component of all values.

    Args:
        abs: take absolute values first.
        **kwargs: arguments of `torchmetrics.Metric`.
    """

    kind = "max"
    pick = staticmethod(torch.amax)


class Min(_Extreme):
    """The smallest component of all values.

    Args:
        abs: take absolute values first.
        **kwargs: arguments of `torchmetrics.Metric`.
    """

    kind = "min"
    pick = staticmethod(torch.amin)
