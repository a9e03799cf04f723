"""Averages of a model's parameters, kept beside the model and applied around its evaluations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from nequip_core.errors import ConfigError

__all__ = ["AveragedWeights", "EMAWeights"]


class AveragedWeights(torch.nn.Module):
    """Averages ``ema_weight_{k}`` of the parameters, k being their order in the model.

    They start as copies of the parameters; buffers of the model are not averaged.

    Args:
        model: the model at the start of training.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        for index, parameter in enumerate(model.parameters()):
            self.register_buffer(f"ema_weight_{index}", parameter.detach().clone())

    def weights(self) -> list[torch.Tensor]:
        """Return the averages in the order of the model's parameters."""
        return list(self.buffers())

    @contextlib.contextmanager
    def applied(self, model: torch.nn.Module) -> Iterator[None]:
        """Give the model the averages for the duration of a ``with`` block.

        The parameters stay the same objects; only what they hold is exchanged, and is back
        afterwards whatever happens. So a checkpoint never meets a model with exchanged weights.
        """
        parameters = list(model.parameters())
        own = [parameter.data for parameter in parameters]
        try:
            for average, parameter in zip(self.weights(), parameters, strict=True):
                parameter.data = average
            yield
        finally:
            for parameter, data in zip(parameters, own, strict=True):
                parameter.data = data

    def copy_to(self, model: torch.nn.Module) -> None:
        """Set the parameters of a model to the averages."""
        with torch.no_grad():
            for parameter, average in zip(model.parameters(), self.weights(), strict=True):
                parameter.copy_(average)


class EMAWeights(AveragedWeights):
    """Exponential moving averages of the parameters.

    After update n the average is d * average + (1 - d) * parameter with
    d = min(decay, (1 + n) / (10 + n)), so that the first steps are forgotten fast.

    Args:
        model: the model at the start of training.
        decay: limit of d, dimensionless, in [0, 1].

    Raises:
        ConfigError: the decay is out of its range.
    """

    def __init__(self, model: torch.nn.Module, decay: float = 0.999) -> None:
        super().__init__(model)
        is_number = isinstance(decay, int | float) and not isinstance(decay, bool)
        if not is_number or not 0.0 <= decay <= 1.0:
            raise ConfigError(f"ema_decay must be in [0, 1], got {decay!r}")
        self.decay = float(decay)
        self.num_updates = 0

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Take the parameters of now into the averages."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for average, parameter in zip(self.weights(), model.parameters(), strict=True):
            average.lerp_(parameter.detach(), 1.0 - decay)

    def get_extra_state(self) -> dict[str, Any]:
        """Return decay and number of updates, for a checkpoint."""
        return {
            "decay": self.decay,
            "num_updates": self.num_updates,
            # Documented for readers: these tensors, not those of the model, are the averages.
            "is_holding_ema_weights": True,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from a state of `get_extra_state`."""
        self.decay = float(state["decay"])
        self.num_updates = int(state["num_updates"])
