"""Weights for prediction of networks that a schedule-free optimizer trained.

While it trains, such an optimizer keeps the model at y = beta x + (1 - beta) z, the point where it
takes gradients; x is the average to predict with, z is in the optimizer's state. Source: Defazio et
al., "The Road Less Scheduled", 2024, equation 1, and the library ``schedulefree``, whose state dict
says with ``train_mode`` whether the model stood at y or at x when it was saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.errors import FileFormatError

__all__ = ["prediction_weights"]


def prediction_weights(
    optimizer: Mapping[str, Any], parameters: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Return the averages x, in the order of the model's parameters.

    Args:
        optimizer: state dict of the optimizer: ``state`` and ``param_groups``.
        parameters: the model's parameters as they were saved, in the optimizer's order.

    Raises:
        FileFormatError: `optimizer` is not such a state dict, or belongs to another model.
    """
    try:
        groups, states = optimizer["param_groups"], optimizer["state"]
        places = [int(place) for group in groups for place in group["params"]]
        if sorted(places) != list(range(len(parameters))):
            raise FileFormatError(
                f"the schedule-free optimizer has {len(places)} parameters, its model has "
                f"{len(parameters)}"
            )
        found = list(parameters)
        for group in groups:
            if not group["train_mode"]:
                continue  # the model was saved at x
            beta = float(group["betas"][0] if "betas" in group else group["momentum"])
            for place in group["params"]:
                if place in states:  # a parameter without a gradient has no state
                    z = states[place]["z"]
                    found[place] = _average(parameters[place], z, beta, place)
    except (LookupError, TypeError, ValueError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(
            "the checkpoint's 'schedulefree_optimizer_state_dict' is not that of a schedule-free "
            f"optimizer ({type(error).__name__}: {error})"
        ) from error
    return found


def _average(y: torch.Tensor, z: torch.Tensor, beta: float, place: int) -> torch.Tensor:
    if y.shape != z.shape:
        raise FileFormatError(
            f"parameter {place} of the schedule-free optimizer has shape {tuple(z.shape)}, its "
            f"model's has {tuple(y.shape)}"
        )
    return torch.lerp(y, z.to(y.dtype), 1.0 - 1.0 / beta)
