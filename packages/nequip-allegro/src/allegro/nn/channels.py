"""Harmonics of edges times weights: features with channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allegro.nn.tensor_track import Irrep

__all__ = ["WeightedHarmonics"]


class WeightedHarmonics(torch.nn.Module):
    """V[e, i, u] = Y[e, i] w[e, u, l(i)]: a weight for each channel u and irrep l.

    Args:
        irreps: irreps (l, p) of the harmonics.
        num_channels: M.
        weight_individual_irreps: a weight for each irrep, or one for all of a channel.

    Attributes:
        weight_numel: weights of an edge; the irreps of a channel stand side by side.
    """

    def __init__(
        self, irreps: Sequence[Irrep], num_channels: int, weight_individual_irreps: bool = True
    ) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.num_weights = len(irreps) if weight_individual_irreps else 1
        self.weight_numel = num_channels * self.num_weights
        sizes = torch.tensor([2 * l + 1 for l, _ in irreps])
        places = torch.repeat_interleave(torch.arange(len(irreps)), sizes)
        if not weight_individual_irreps:
            places = torch.zeros_like(places)
            # Published checkpoints hold this name, without elements.
            self.register_buffer("_rtoi", torch.empty(0))
        self.register_buffer("weight_of_component", places, persistent=False)
        self.weight_of_component: torch.Tensor

    def forward(self, harmonics: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the features, (E, L, M), of harmonics (E, L) and weights (E, weight_numel)."""
        by_irrep = weights.reshape(-1, self.num_channels, self.num_weights).transpose(1, 2)
        return harmonics.unsqueeze(-1) * by_irrep.index_select(1, self.weight_of_component)
