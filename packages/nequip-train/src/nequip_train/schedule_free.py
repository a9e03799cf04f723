"""Training with the schedule-free optimizers of the library ``schedulefree``.

Such an optimizer holds the model at y = beta x + (1 - beta) z, where gradients are taken; x is the
average to predict with, z is in the optimizer's state. Source: Defazio et al., "The Road Less
Scheduled", arXiv:2405.15682 (2024), equation 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nequip_core.errors import ConfigError
from nequip_core.instantiate import TARGET
from nequip_train.ema import AveragedWeights
from nequip_train.modules import AveragingLightningModule

__all__ = ["ScheduleFreeLightningModule"]

_OPTIMIZERS = ("AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree")
_STATE_KEY = "schedulefree_optimizer_state_dict"


class ScheduleFreeLightningModule(AveragingLightningModule):
    """Trains with a schedule-free optimizer, and validates and tests with its averages x.

    The model itself stays at y, so validating often changes nothing of the training. Checkpoints
    hold y as the weights, x as ``ema.ema_weight_<k>``, and the state of the optimizer also as
    ``schedulefree_optimizer_state_dict``.

    Args:
        optimizer: config of an AdamW, RAdam or SGD optimizer of ``schedulefree``.
        **kwargs: arguments of `NequIPLightningModule`.

    Raises:
        ConfigError: the optimizer is another one.
    """

    def __init__(self, optimizer: Mapping[str, Any], **kwargs: Any) -> None:
        target = str((optimizer or {}).get(TARGET))
        if target.rpartition(".")[2] not in _OPTIMIZERS:
            raise ConfigError(
                "training_module.optimizer: ScheduleFreeLightningModule needs one of "
                f"{', '.join(f'schedulefree.{name}' for name in _OPTIMIZERS)}, got '{target}'"
            )
        super().__init__(optimizer=optimizer, **kwargs)
        self.ema = AveragedWeights(self.model)

    def on_train_start(self) -> None:
        """Put the optimizer into the mode in which it may step."""
        self._optimizer().train()

    def _optimizer(self) -> Any:
        return self.optimizers(use_pl_optimizer=False)

    @torch.no_grad()
    def on_weights_changed(self) -> None:
        """Take the averages from the optimizer."""
        optimizer = self._optimizer()
        place = {id(parameter): k for k, parameter in enumerate(self.model.parameters())}
        averages = self.ema.weights()
        for group in optimizer.param_groups:
            beta = group["betas"][0] if "betas" in group else group["momentum"]
            for y in group["params"]:
                z = optimizer.state.get(y, {}).get("z")
                # Without a gradient so far, the parameter is its own average.
                x = y if z is None else torch.lerp(y, z.to(y.dtype), 1.0 - 1.0 / beta)
                averages[place[id(y)]].copy_(x)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of the optimizer under its documented key, too."""
        super().on_save_checkpoint(checkpoint)
        for state in checkpoint.get("optimizer_states", [])[:1]:
            checkpoint[_STATE_KEY] = state
