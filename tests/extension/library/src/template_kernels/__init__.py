"""Functions of edges, in the place of a library of fast kernels."""

import torch

__all__ = ["damped"]


def damped(edges: torch.Tensor, envelope: torch.Tensor) -> torch.Tensor:
    """Return the values of edges, (E, 1), multiplied by their cutoff envelope, (E, 1)."""
    return edges * envelope
