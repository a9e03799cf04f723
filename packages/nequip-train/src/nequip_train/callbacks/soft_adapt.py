"""Coefficients of the loss that follow how fast its terms decrease."""

from __future__ import annotations

import math
from typing import Any

import lightning

from nequip_core.errors import ConfigError
from nequip_train.callbacks.loss_coefficients import loss_of, require_interval

__all__ = ["SoftAdapt"]


class SoftAdapt(lightning.Callback):
    """Gives the terms of the loss that decrease slowest the largest coefficients.

    With d the differences of the terms between two batches (or epochs), the new coefficients are
    those of now times softmax(beta d / (|d| + eps)), divided by their sum; they are averaged over
    `frequency` differences and then set.

    Args:
        beta: how strongly the differences count, dimensionless; negative prefers fast terms.
        interval: ``batch`` or ``epoch``: what the differences are between.
        frequency: number of differences for each change of the coefficients.
        eps: smallest length of d that counts.

    Raises:
        ConfigError: an argument is out of range; at the start of a training: a term of the loss
            has no coefficient.

    Source: A. Heydari et al., "SoftAdapt", arXiv:1912.12355 (2019), equation 8, with coefficients
    in place of the values of the losses.
    """

    def __init__(self, beta: float, interval: str, frequency: int, eps: float = 1e-8) -> None:
        super().__init__()
        require_interval(self, interval, frequency)
        self.beta = float(beta)
        self.interval = interval
        self.frequency = frequency
        self.eps = float(eps)
        self.last: dict[str, float] | None = None
        self.proposals: list[dict[str, float]] = []

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Check that every term has a coefficient to change."""
        for name, entry in loss_of(pl_module, self).entries.items():
            if entry.coeff is None:
                raise ConfigError(
                    f"SoftAdapt changes all coefficients of the loss, but '{name}' has none; give "
                    "it one, or move it to train_metrics"
                )

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the losses of the batch before."""
        if self.interval == "batch":
            self._take(pl_module, loss_of(pl_module, self).metrics_values_step)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Take in the losses of the epoch before."""
        if self.interval == "epoch":
            self._take(pl_module, loss_of(pl_module, self).metrics_values_epoch)

    def _take(self, module: Any, values: dict[str, float | None]) -> None:
        losses = {name: float(value) for name, value in values.items() if value is not None}
        if len(losses) < len(values) or not all(map(math.isfinite, losses.values())):
            return  # nothing was computed yet, or a batch had no label for a term
        if self.last is not None:
            self.proposals.append(self._proposal(module, self.last, losses))
        self.last = losses
        if len(self.proposals) == self.frequency:
            count = len(self.proposals)
            loss_of(module, self).set_coeffs(
                {name: sum(found[name] for found in self.proposals) / count for name in losses}
            )
            self.proposals = []

    def _proposal(
        self, module: Any, before: dict[str, float], now: dict[str, float]
    ) -> dict[str, float]:
        difference = {name: value - before[name] for name, value in now.items()}
        length = math.hypot(*difference.values()) + self.eps
        entries = loss_of(module, self).entries
        exponents = {name: self.beta * value / length for name, value in difference.items()}
        largest = max(exponents.values())
        weights = {
            name: math.exp(value - largest) * float(entries[name].coeff or 0.0)
            for name, value in exponents.items()
        }
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the latest losses, and the coefficients proposed since the latest change."""
        return {"last": self.last, "proposals": self.proposals}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self.last = state_dict["last"]
        self.proposals = list(state_dict["proposals"])
