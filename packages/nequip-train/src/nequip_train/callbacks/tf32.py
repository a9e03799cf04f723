"""TF32 in matrix products, by epochs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import lightning

from nequip_core.errors import ConfigError
from nequip_core.precision import matrix_precision

__all__ = ["TF32Scheduler"]


class TF32Scheduler(lightning.Callback):
    """Allows TF32 in matrix products on NVIDIA GPUs from given epochs on, or forbids it.

    Logs ``tf32_enabled``, 0 or 1. After the training torch's setting is what it was before.

    Args:
        schedule: epoch -> whether to allow TF32; epoch 0 must be there.

    Raises:
        ConfigError: the schedule has no epoch 0, or a value is neither true nor false.
    """

    def __init__(self, schedule: Mapping[int, bool]) -> None:
        super().__init__()
        found = {int(epoch): allowed for epoch, allowed in schedule.items() if str(epoch).isdigit()}
        if len(found) < len(schedule) or 0 not in found:
            raise ConfigError(
                f"schedule of TF32Scheduler must map epochs, 0 among them, to true or false: "
                f"{dict(schedule)}"
            )
        for epoch, allowed in found.items():
            if not isinstance(allowed, bool):
                raise ConfigError(
                    f"schedule of TF32Scheduler must be true or false in epoch {epoch}, got "
                    f"{allowed!r}"
                )
        self.schedule = found
        self._setting = contextlib.ExitStack()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Set what holds in the epoch in whose middle a run goes on: it does not start again."""
        self._set(trainer, pl_module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Set what holds in this epoch, and log it."""
        pl_module.log("tf32_enabled", float(self._set(trainer, pl_module)))

    def _set(self, trainer: lightning.Trainer, pl_module: Any) -> bool:
        """Return whether TF32 is allowed from now on."""
        latest = max(epoch for epoch in self.schedule if epoch <= trainer.current_epoch)
        self._setting.close()
        self._setting.enter_context(matrix_precision(self.schedule[latest], pl_module.device))
        return self.schedule[latest]

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Leave torch's setting as it was."""
        self._setting.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException
    ) -> None:
        """Leave torch's setting as it was."""
        self._setting.close()
