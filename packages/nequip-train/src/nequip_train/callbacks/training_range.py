"""What distances and numbers of neighbors a model has seen, for the warnings of engines."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from nequip_core.frames import Frame
from nequip_core.training_range import RangeRecorder

__all__ = ["TrainingRange"]


class TrainingRange(lightning.Callback):
    """Records the range of the training set, see `nequip_core.training_range`, in the first epoch.

    Every run has one. Its state is part of the checkpoint; `nequip-package build` puts it into the
    card as ``training.range``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recorder: RangeRecorder | None = None
        self.is_done = False
        self._earlier: dict[str, torch.Tensor] = {}
        self._range: dict[str, Any] = {}

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Frame, batch_idx: int
    ) -> None:
        """Take in a batch."""
        if self.is_done:
            return
        if self.recorder is None:
            # Models that are trained together have the same types.
            first = next(iter(pl_module.model.values()))
            self.recorder = RangeRecorder(first.type_names)
            self.recorder.load(self._earlier)
        self.recorder.add(batch)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Put together what all processes have seen, and be done."""
        if self.is_done or self.recorder is None:
            return
        if trainer.world_size > 1:
            reduce, operations = torch.distributed.all_reduce, torch.distributed.ReduceOp
            values = {key: value.to(pl_module.device) for key, value in self.recorder.state.items()}
            for key, value in values.items():
                reduce(value, operations.MAX if key == "most" else operations.MIN)
            self.recorder.load(values)
        self.is_done = True

    def state_dict(self) -> dict[str, Any]:
        """Return the range so far, and from what it is made."""
        if self.recorder is None:
            return {"is_done": self.is_done, "state": self._earlier, "range": self._range}
        recorded = self.recorder
        return {"is_done": self.is_done, "state": recorded.state, "range": recorded.range()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what an interrupted run has seen."""
        self.is_done = bool(state_dict.get("is_done"))
        self._earlier = dict(state_dict.get("state") or {})
        self._range = dict(state_dict.get("range") or {})
