"""Error metrics of predictions against targets, for losses and reports.

All average over every scalar component, accumulate in float64, and give NaN of nothing. Called
with one batch they return its differentiable value and take it into the running one.
"""

from __future__ import annotations

import abc
from typing import Any

import torch
import torchmetrics

from nequip_core.errors import ConfigError

__all__ = [
    "HuberLoss",
    "MaximumAbsoluteError",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "RootMeanSquaredError",
]


class _MeanError(torchmetrics.Metric):
    """The mean of an elementwise error."""

    full_state_update = False
    is_differentiable = True
    higher_is_better = False
    total: torch.Tensor
    count: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("total", "count"):
            zero = torch.zeros((), dtype=torch.float64)
            self.add_state(name, default=zero, dist_reduce_fx="sum")

    @abc.abstractmethod
    def _errors(self, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the error of every component, in float64."""

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Take in predictions and targets of one shape."""
        errors = self._errors(preds.to(torch.float64), target.to(torch.float64))
        self.total = self.total + errors.sum()
        self.count = self.count + errors.numel()

    def compute(self) -> torch.Tensor:
        """Return the mean error."""
        return self.total / self.count


class MeanAbsoluteError(_MeanError):
    """Mean of |prediction - target|."""

    def _errors(self, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (preds - target).abs()

    def __str__(self) -> str:
        """Return the suffix of automatic names."""
        return "mae"


class MeanSquaredError(_MeanError):
    """Mean of (prediction - target)^2."""

    def _errors(self, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (preds - target).square()

    def __str__(self) -> str:
        """Return the suffix of automatic names."""
        return "mse"


class RootMeanSquaredError(MeanSquaredError):
    """Square root of the mean of (prediction - target)^2."""

    def compute(self) -> torch.Tensor:
        """Return the root of the mean squared error."""
        return super().compute().sqrt()

    def __str__(self) -> str:
        """Return the suffix of automatic names."""
        return "rmse"


class HuberLoss(_MeanError):  # noqa: N818 - documented name, and no exception
    """Huber's loss: e^2 / 2 up to an error e of delta, delta (e - delta / 2) beyond.

    Args:
        reduction: ``mean`` or ``sum`` over all components.
        delta: where the quadratic part ends, in the unit of the quantity.
        **kwargs: arguments of `torchmetrics.Metric`.
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if reduction not in ("mean", "sum"):
            raise ConfigError(f"reduction of HuberLoss must be mean or sum, got {reduction!r}")
        if not delta > 0:
            raise ConfigError(f"delta of HuberLoss must be positive, got {delta}")
        self.reduction = reduction
        self.delta = float(delta)

    def _errors(self, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.huber_loss(preds, target, reduction="none", delta=self.delta)

    def compute(self) -> torch.Tensor:
        """Return the mean or sum of the loss."""
        return self.total if self.reduction == "sum" else super().compute()

    def __str__(self) -> str:
        """Return the suffix of automatic names."""
        return "huber"


class MaximumAbsoluteError(torchmetrics.Metric):
    """Largest |prediction - target|."""

    full_state_update = False
    is_differentiable = True
    higher_is_better = False
    largest: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Absolute errors are never negative, so -1 stands for "none yet".
        none_yet = torch.tensor(-1.0, dtype=torch.float64)
        self.add_state("largest", default=none_yet, dist_reduce_fx="max")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Take in predictions and targets of one shape."""
        if target.numel():
            errors = (preds.to(torch.float64) - target.to(torch.float64)).abs()
            self.largest = torch.maximum(self.largest, errors.max())

    def compute(self) -> torch.Tensor:
        """Return the largest error."""
        return torch.where(self.largest < 0, torch.nan, self.largest)

    def __str__(self) -> str:
        """Return the suffix of automatic names."""
        return "max_ae"
