"""Multi-layer perceptron on scalars, without biases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from nequip_model.nn.activations import activation

__all__ = ["ScalarMLP"]


class ScalarMLP(torch.nn.Module):
    """(..., in) -> (..., out): matrices with the nonlinearity between them, not after the last.

    Each matrix is scaled to keep the variance: 1 / sqrt(fan_in) for the first, sqrt(2 / fan_in)
    for those behind a nonlinearity. Weights are drawn from U(-sqrt(3), sqrt(3)).

    Args:
        dims: sizes from input to output, at least two.
        nonlinearity: a name of `nequip_model.nn.activations`, or None for a linear chain.
        dtype: of the weights.
    """

    def __init__(self, dims: Sequence[int], nonlinearity: str | None, dtype: torch.dtype) -> None:
        super().__init__()
        if nonlinearity is not None:
            activation(nonlinearity)
        self.nonlinearity = nonlinearity
        gain = 1.0 if nonlinearity is None else math.sqrt(2.0)
        self.weights = torch.nn.ParameterList()
        self.scales: list[float] = []
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(dims)):
            weight = torch.empty(fan_in, fan_out, dtype=dtype)
            bound = math.sqrt(3.0)
            self.weights.append(torch.nn.Parameter(weight.uniform_(-bound, bound)))
            self.scales.append((1.0 if layer == 0 else gain) / math.sqrt(fan_in))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the output features."""
        hidden, matrix = self.factors(features)
        return hidden @ matrix

    def factors(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the last matrix is multiplied with, (..., fan_in), and that matrix."""
        last = len(self.scales) - 1
        for layer, (weight, scale) in enumerate(zip(self.weights, self.scales, strict=True)):
            matrix = weight * scale
            if layer == last:
                break
            features = features @ matrix
            if self.nonlinearity is not None:
                features = activation(self.nonlinearity)(features)
        return features, matrix
