"""The progress of a training: throughput, losses, and when it will be done."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import Progress

from nequip_train.run_folder.record import guarded
from nequip_train.run_folder.speed_monitor import SpeedMonitor
from nequip_train.run_folder.throughput import duration, progress_columns

__all__ = ["TrainingProgress"]

_LOG = logging.getLogger(__name__)
_REFRESH = 0.2  # s between two changes of the bar
_LOG_EVERY = 30.0  # s between two lines of a log


class TrainingProgress(ProgressBar):
    """A bar on a terminal; anywhere else a line in the log, at most one every 30 s.

    Args:
        monitor: what measures the training; a callback of the same trainer.
        console: where the bar goes, by default standard output.
    """

    def __init__(self, monitor: SpeedMonitor, console: Console | None = None) -> None:
        super().__init__()
        self._monitor = monitor
        self._console = console or Console()
        self._enabled = True
        self._progress: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._shown_at = self._logged_at = 0.0

    def disable(self) -> None:
        """Show nothing; the lines of the log too."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    # Training.

    @guarded
    def on_train_epoch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Begin the bar of an epoch."""
        self._show_epoch(trainer)

    @guarded
    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Begin the bar in the middle of an epoch, after a restart."""
        if self._progress is None or "train" not in self._tasks:
            self._show_epoch(trainer)

    def _show_epoch(self, trainer: lightning.Trainer) -> None:
        last = trainer.max_epochs if trainer.max_epochs not in (None, -1) else "?"
        self._show("train", f"epoch {trainer.current_epoch + 1}/{last}", self.total_train_batches)

    @guarded
    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show how far the epoch is."""
        now = time.monotonic()
        if now - self._shown_at < _REFRESH and batch_idx + 1 < self.total_train_batches:
            return
        self._shown_at = now
        loss = self.get_metrics(trainer, module).get("loss")
        speed = f"{self._monitor.speed}" + (f"  loss {loss:.4g}" if isinstance(loss, float) else "")
        left = self.seconds_left(trainer)
        shown = f"{duration(left)} left" if left is not None else ""
        self._update("train", batch_idx + 1, speed, shown)

    @guarded
    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Log the epoch."""
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        if self._progress is None and self._enabled and trainer.is_global_zero:
            now = time.monotonic()
            if is_last or now - self._logged_at >= _LOG_EVERY:
                self._logged_at = now
                _LOG.info(self._line(trainer))

    def _line(self, trainer: lightning.Trainer) -> str:
        parts = [f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"]
        for name in ("train_loss_step/weighted_sum", "val0_epoch/weighted_sum"):
            value = trainer.callback_metrics.get(name)
            if value is not None:
                parts.append(f"{name} {float(value):.4g}")
        parts.append(str(self._monitor.speed))
        left = self.seconds_left(trainer)
        if left:
            parts.append(f"{duration(left)} left")
        return ", ".join(part for part in parts if part)

    def seconds_left(self, trainer: lightning.Trainer) -> float | None:
        """Return the time until the last step in s, validations included; None if unknown."""
        each = self._monitor.speed.seconds_per_batch
        per_epoch = trainer.num_training_batches
        if each is None or per_epoch == float("inf"):
            return None
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if trainer.max_steps not in (None, -1):
            batches: float = (
                trainer.max_steps - trainer.global_step
            ) * trainer.accumulate_grad_batches
        elif trainer.max_epochs not in (None, -1):
            whole = trainer.max_epochs - trainer.current_epoch
            batches = whole * per_epoch - done
        else:
            return None
        validations = batches / max(per_epoch, 1) / (trainer.check_val_every_n_epoch or 1)
        return max(float(batches * each + validations * self._monitor.validation_seconds), 0.0)

    @guarded
    def on_train_end(self, *_: Any) -> None:
        """Take the bar away."""
        self._close()

    # Validation and test.

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
        """Show how far the validation is."""
        self._evaluated(trainer, "validation", batch_idx, dataloader_idx)

    @guarded
    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Take the bar of the validation away."""
        self._hide("validation")
        if trainer.state.fn != "fit":
            self._close()

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
        """Show how far the test is."""
        self._evaluated(trainer, "test", batch_idx, dataloader_idx)

    @guarded
    def on_test_end(self, *_: Any) -> None:
        """Take the bar away."""
        self._close()

    def _evaluated(self, trainer: Any, what: str, batch_idx: int, dataloader_idx: int) -> None:
        if batch_idx == 0:
            counts = trainer.num_test_batches
            if what == "validation":
                checks = trainer.sanity_checking
                counts = trainer.num_sanity_val_batches if checks else trainer.num_val_batches
            self._show(what, f"{what} {dataloader_idx}", counts[dataloader_idx])
        self._update(what, batch_idx + 1, "", "")

    @guarded
    def on_exception(self, *_: Any) -> None:
        """Leave the terminal as it was."""
        self._close()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Leave the terminal as it was."""
        self._close()

    # The bar itself.

    def _show(self, what: str, description: str, total: Any) -> None:
        # rich animates a terminal only; the lines of a log are ours.
        if not self._enabled or not self._console.is_terminal:
            return
        if self._progress is None:
            self._progress = Progress(*progress_columns(), console=self._console, transient=True)
            self._progress.start()
        self._hide(what)
        length = None if total in (None, float("inf")) else int(total)
        self._tasks[what] = self._progress.add_task(description, total=length, speed="", left="")

    def _update(self, what: str, done: int, speed: str, left: str) -> None:
        if self._progress is not None and what in self._tasks:
            self._progress.update(self._tasks[what], completed=done, speed=speed, left=left)

    def _hide(self, what: str) -> None:
        task = self._tasks.pop(what, None)
        if self._progress is not None and task is not None:
            self._progress.remove_task(task)

    def _close(self) -> None:
        progress, self._progress = self._progress, None
        self._tasks.clear()
        if progress is not None:
            progress.stop()
