"""Nonlinearity that acts on the length of every feature and keeps its direction."""

from __future__ import annotations

import torch

from nequip_model.nn.activations import activation
from nequip_model.nn.layout import Layout

__all__ = ["NormNonlinearity"]


class NormNonlinearity(torch.nn.Module):
    """x <- act(|x|) x / |x|, for each channel of each irrep; the layout does not change.

    Args:
        layout: of the features.
        nonlinearity: name of act, see `nequip_model.nn.activations`.
        epsilon: lengths below it count as it, dimensionless.
    """

    def __init__(self, layout: Layout, nonlinearity: str, epsilon: float = 1e-8) -> None:
        super().__init__()
        activation(nonlinearity)
        self.layout_in = self.layout_out = layout
        self.nonlinearity = nonlinearity
        self.epsilon = epsilon

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (N, dim) of (N, dim)."""
        outputs = []
        for block in self.layout_in.split(features):
            squares = block.square().sum(dim=1, keepdim=True)
            # The clamp is under the root, whose derivative at zero is infinite.
            norms = squares.clamp(min=self.epsilon**2).sqrt()
            outputs.append((block * (activation(self.nonlinearity)(norms) / norms)).flatten(1))
        return torch.cat(outputs, dim=1)
