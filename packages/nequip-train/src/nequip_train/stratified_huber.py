"""Huber's loss of forces with a width that depends on how large the reference force is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from nequip_core.errors import ConfigError
from nequip_train.metrics import _MeanError

__all__ = ["StratifiedHuberForceLoss"]


class StratifiedHuberForceLoss(_MeanError):  # noqa: N818 - documented name, and no exception
    """Huber's loss of every component, delta being that of the stratum of the reference vector.

    A vector belongs to the stratum with the largest lower bound that its length reaches. Below the
    smallest bound delta is infinite, which makes the loss e^2 / 2.

    Args:
        delta_dict: lower bound of a stratum -> its delta, both in the unit of the forces.
        reduction: ``mean`` or ``sum`` over all components.
        **kwargs: arguments of `torchmetrics.Metric`.

    Raises:
        ConfigError: a bound or a delta is out of range, or there is one stratum only.
    """

    def __init__(
        self, delta_dict: Mapping[float, float], reduction: str = "mean", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if reduction not in ("mean", "sum"):
            raise ConfigError(
                f"reduction of StratifiedHuberForceLoss must be mean or sum, got {reduction!r}"
            )
        try:
            strata = sorted((float(bound), float(delta)) for bound, delta in delta_dict.items())
        except (AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"delta_dict must map lower bounds of |F| to deltas, got {delta_dict!r}"
            ) from error
        for bound, delta in strata:
            if not (0.0 <= bound < math.inf and delta > 0.0):
                raise ConfigError(
                    f"delta_dict must have bounds >= 0 and deltas > 0, got {{{bound:g}: {delta:g}}}"
                )
        if strata and strata[0][0] > 0.0:
            strata.insert(0, (0.0, math.inf))
        if len(strata) < 2:
            raise ConfigError(
                "delta_dict needs two strata or more; for one delta use nequip.train.HuberLoss"
            )
        self.reduction = reduction
        self.bounds = [bound for bound, _ in strata]
        self.deltas = [delta for _, delta in strata]

    def _errors(self, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        lengths = torch.linalg.vector_norm(target.reshape(-1, target.shape[-1]), dim=-1)
        stratum = torch.bucketize(lengths, lengths.new_tensor(self.bounds[1:]), right=True)
        delta = lengths.new_tensor(self.deltas)[stratum].reshape(*target.shape[:-1], 1)
        error = (preds - target).abs()
        quadratic = torch.minimum(error, delta)
        slope = torch.where(torch.isinf(delta), 0.0, delta)
        return 0.5 * quadratic.square() + slope * (error - quadratic)

    def compute(self) -> torch.Tensor:
        """Return the mean or sum of the loss."""
        return self.total if self.reduction == "sum" else super().compute()

    def __str__(self) -> str:
        """Return the suffix of automatic names."""
        return "stratified huber"
