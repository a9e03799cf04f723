"""Nonlinearities by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

__all__ = [
    "ACTIVATIONS",
    "PARITIES",
    "SECOND_MOMENTS",
    "SECOND_MOMENT_SILU",
    "SECOND_MOMENT_TANH",
    "activation",
]


def _shifted_softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softplus(x) - math.log(2.0)


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": torch.nn.functional.silu,
    "mish": torch.nn.functional.mish,
    "gelu": torch.nn.functional.gelu,
    "ssp": _shifted_softplus,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "abs": torch.abs,
    "identity": _identity,
}

# Factors that bring the second moment over a normal distribution to one: 1 / sqrt(mean act(z)^2)
# over 10^6 samples, as e3nn computes them once and every published network has them baked in.
SECOND_MOMENT_SILU = 1.6791767923989418
SECOND_MOMENT_TANH = 1.5937334472592695
SECOND_MOMENTS = {
    "abs": 1.001110600838467,
    "silu": SECOND_MOMENT_SILU,
    "ssp": 1.878204668541552,
    "tanh": SECOND_MOMENT_TANH,
}

PARITIES = {"abs": 1, "tanh": -1}
"""act(-x) = parity * act(x), for those nonlinearities that have a parity."""


def activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the nonlinearity of a name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"nonlinearity must be one of {sorted(ACTIVATIONS)} or null, got {name!r}")
    return ACTIVATIONS[name]
