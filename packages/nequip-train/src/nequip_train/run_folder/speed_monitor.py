"""Throughput and learning rate of every epoch, for the metrics files."""

from __future__ import annotations

import time
from typing import Any

import lightning

from nequip_train.run_folder.metrics_files import MetricsFiles
from nequip_train.run_folder.record import guarded
from nequip_train.run_folder.throughput import Speed

__all__ = ["SpeedMonitor"]


class SpeedMonitor(lightning.Callback):
    """Measures a training without its validations; logs ``atoms_per_s``, ``edges_per_s``, ``lr``.

    Args:
        metrics: where to log at the end of every epoch; None for nowhere.

    Attributes:
        speed: what was measured.
        validation_seconds: how long the latest validation took, s.
    """

    def __init__(self, metrics: MetricsFiles | None) -> None:
        super().__init__()
        self.speed = Speed()
        self.validation_seconds = 0.0
        self._metrics = metrics
        self._epoch_start = (0, 0, 0.0)
        self._validated_at = 0.0

    @guarded
    def on_train_epoch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Start the clock."""
        self._epoch_start = (self.speed.atoms, self.speed.edges, self.speed.seconds)
        self.speed.start()

    @guarded
    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock again after a validation."""
        self.speed.start()

    @guarded
    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch."""
        self.speed.count(batch)

    @guarded
    def on_validation_start(self, *_: Any) -> None:
        """Stop the clock of the training."""
        self.speed.pause()
        self._validated_at = time.monotonic()

    @guarded
    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Note how long the validation took."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.validation_seconds = time.monotonic() - self._validated_at

    @guarded
    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Log the epoch."""
        self.speed.pause()
        if self._metrics is None:
            return
        atoms, edges, seconds = self._epoch_start
        atoms, edges = self.speed.atoms - atoms, self.speed.edges - edges
        seconds = self.speed.seconds - seconds
        values: dict[str, Any] = {"epoch": trainer.current_epoch}
        if seconds > 0:
            values |= {"atoms_per_s": atoms / seconds, "edges_per_s": edges / seconds}
        if trainer.optimizers:
            values["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
        self._metrics.log_metrics(values, step=max(step, 0))
