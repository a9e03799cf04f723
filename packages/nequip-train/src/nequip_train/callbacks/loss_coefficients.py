"""Callbacks that change the coefficients of the loss while a model trains, or log them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning
import torch

from nequip_core.errors import ConfigError
from nequip_train.metrics_manager import MetricsManager

__all__ = [
    "LinearLossCoefficientScheduler",
    "LossCoefficientMonitor",
    "LossCoefficientScheduler",
    "loss_of",
    "require_interval",
]

Coeffs = Mapping[str, float]


def loss_of(module: Any, callback: object) -> MetricsManager:
    """Return the loss of a training module.

    Raises:
        ConfigError: it has none.
    """
    loss = getattr(module, "loss", None)
    if not isinstance(loss, MetricsManager):
        raise ConfigError(f"{type(callback).__name__} needs a training module with a loss")
    return loss


def require_interval(callback: object, interval: str, frequency: int) -> None:
    """Raise a ConfigError unless there is such an interval, and the frequency is positive."""
    name = type(callback).__name__
    if interval not in ("batch", "epoch"):
        raise ConfigError(f"interval of {name} must be batch or epoch, got {interval!r}")
    if isinstance(frequency, bool) or not isinstance(frequency, int) or frequency < 1:
        raise ConfigError(f"frequency of {name} must be a whole number from 1, got {frequency!r}")


def _epoch(value: Any, what: str) -> int:
    if isinstance(value, bool) or not str(value).isdigit():
        raise ConfigError(f"{what} must be the number of an epoch, from 0, got {value!r}")
    return int(value)


class LossCoefficientScheduler(lightning.Callback):
    """Sets the coefficients of the loss at the start of given epochs.

    Args:
        schedule: epoch -> coefficients by name; terms that are not named get none.

    Raises:
        ConfigError: a key is no epoch; at the start of a training: a name is unknown.
    """

    def __init__(self, schedule: Mapping[int, Coeffs]) -> None:
        super().__init__()
        self.schedule = {
            _epoch(epoch, "a key of schedule"): dict(coeffs) for epoch, coeffs in schedule.items()
        }

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Check all names before the first epoch."""
        for coeffs in self.schedule.values():
            loss_of(pl_module, self).check_coeffs(coeffs)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Set the coefficients, if this epoch has any."""
        coeffs = self.schedule.get(trainer.current_epoch)
        if coeffs is not None:
            loss_of(pl_module, self).set_coeffs(coeffs)


class LinearLossCoefficientScheduler(lightning.Callback):
    """Moves the coefficients of the loss on a straight line from what they are to given ones.

    In epoch e the coefficients are c + (f - c) (e - s) / n, s being the epoch where it starts with
    the coefficients c, and n the number of epochs; both c and f have the sum 1. After s + n they
    are left alone, so several of these may follow each other.

    Args:
        final_coeffs: coefficients by name to arrive at.
        transition_epochs: how many epochs it takes.
        start_epoch: where it starts.

    Raises:
        ConfigError: an argument is out of range; at the start of a training: a name is unknown.
    """

    def __init__(self, final_coeffs: Coeffs, transition_epochs: int, start_epoch: int = 0) -> None:
        super().__init__()
        self.start_epoch = _epoch(start_epoch, "start_epoch")
        self.transition_epochs = _epoch(transition_epochs, "transition_epochs")
        total = sum(float(value) for value in final_coeffs.values())
        if self.transition_epochs < 1 or not total > 0.0:
            raise ConfigError(
                "LinearLossCoefficientScheduler needs transition_epochs from 1 and coefficients "
                f"with a positive sum, got {transition_epochs} and {dict(final_coeffs)}"
            )
        self.final_coeffs = {name: float(c) / total for name, c in final_coeffs.items()}
        self.initial_coeffs: dict[str, float] | None = None

    @property
    def state_key(self) -> str:
        """Name of the state in checkpoints: the start tells several of these apart."""
        return f"{type(self).__qualname__}_{self.start_epoch}"

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Check all names before the first epoch."""
        loss = loss_of(pl_module, self)
        loss.check_coeffs(self.final_coeffs)
        missing = [n for n, e in loss.entries.items() if e.coeff is not None]
        missing = [name for name in missing if name not in self.final_coeffs]
        if missing:
            raise ConfigError(
                f"final_coeffs of LinearLossCoefficientScheduler lacks '{missing[0]}'; give it 0 "
                "to let it go"
            )

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Set the coefficients of this epoch."""
        loss, epochs = loss_of(pl_module, self), trainer.current_epoch - self.start_epoch
        if not 0 <= epochs <= self.transition_epochs:
            return
        if self.initial_coeffs is None:
            self.initial_coeffs = {
                name: loss.entries[name].coeff or 0.0 for name in self.final_coeffs
            }
        part = epochs / self.transition_epochs
        loss.set_coeffs(
            {
                name: (1.0 - part) * self.initial_coeffs[name] + part * final
                for name, final in self.final_coeffs.items()
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the coefficients where it started, None before."""
        return {"initial_coeffs": self.initial_coeffs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self.initial_coeffs = state_dict["initial_coeffs"]


class LossCoefficientMonitor(lightning.Callback):
    """Logs the coefficients of the loss as ``loss_coeff/<name>``.

    Args:
        interval: ``batch`` or ``epoch``.
        frequency: log every so many of them.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, interval: str, frequency: int) -> None:
        super().__init__()
        require_interval(self, interval, frequency)
        self.interval = interval
        self.frequency = frequency
        self._due = False

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note whether it is the turn of this batch, or of the epoch that it is the first of."""
        done = trainer.global_step if self.interval == "batch" else trainer.current_epoch
        self._due = (self.interval == "batch" or batch_idx == 0) and done % self.frequency == 0

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: Any, loss: torch.Tensor
    ) -> None:
        """Log what the loss was made with: other callbacks may have set it after our turn."""
        if self._due:
            self._log(trainer, pl_module)
            self._due = False

    def _log(self, trainer: lightning.Trainer, module: Any) -> None:
        values = {
            f"loss_coeff/{name}": entry.coeff
            for name, entry in loss_of(module, self).entries.items()
            if entry.coeff is not None
        }
        # Not by the module, which would repeat them with every step until the next.
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
