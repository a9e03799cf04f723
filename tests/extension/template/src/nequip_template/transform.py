"""A data transform: what a config puts between a data set and the model."""

from __future__ import annotations

import torch

from nequip_core.frames import Frame
from nequip_template.fields import TEMPERATURE_KEY

__all__ = ["AddTemperature"]


class AddTemperature:
    """Gives every frame the same temperature, unless it has one."""

    def __init__(self, temperature: float) -> None:
        self.temperature = float(temperature)

    def __call__(self, data: Frame) -> Frame:
        """Return the frame with ``temperature`` (1, 1)."""
        if TEMPERATURE_KEY not in data:
            data[TEMPERATURE_KEY] = torch.tensor([[self.temperature]], dtype=torch.float64)
        return data
