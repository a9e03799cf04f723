"""Central differences of small frames, with a measured error.

Every derivative is taken twice by differences of fourth order, with a step h and with 2 h:
f' = (4 D(h) - D(2 h)) / 3 with D(h) = (f(h) - f(-h)) / 2h. How far the two are apart measures the
error of the better one, of rounding as well as of the finite step.
"""

from __future__ import annotations

import torch

from nequip_core.fields import CELL_KEY, POSITIONS_KEY
from nequip_core.frames import Frame

__all__ = ["POINTS", "derivative", "directions_of", "labels_of", "strained"]

POINTS = (-4.0, -2.0, -1.0, 1.0, 2.0, 4.0)
"""Where a line is evaluated, in steps from its middle."""


def directions_of(atoms: int, everything: bool) -> torch.Tensor:
    """Return (K, N, 3): each coordinate by itself, or each atom along one direction."""
    if everything:
        return torch.eye(3 * atoms, dtype=torch.float64).reshape(-1, atoms, 3)
    generator = torch.Generator().manual_seed(atoms)
    chosen = torch.randn(atoms, 3, generator=generator, dtype=torch.float64)
    chosen = chosen / chosen.norm(dim=1, keepdim=True)
    return torch.eye(atoms, dtype=torch.float64)[:, :, None] * chosen[None, :, :]


def labels_of(directions: int, everything: bool) -> list[str]:
    """Return what each direction of `directions_of` moves, for messages."""
    if everything:
        return [f"atom {at // 3} {'xyz'[at % 3]}" for at in range(directions)]
    return [f"atom {at}" for at in range(directions)]


def strained(frame: Frame, i: int, j: int, amount: float) -> Frame:
    """Return the frame with row vectors x -> x + x @ strain, symmetric and of one component."""
    strain = torch.zeros(3, 3, dtype=torch.float64)
    strain[i, j] += amount / 2
    strain[j, i] += amount / 2
    return {
        **frame,
        POSITIONS_KEY: frame[POSITIONS_KEY] + frame[POSITIONS_KEY] @ strain,
        CELL_KEY: frame[CELL_KEY] + frame[CELL_KEY] @ strain,
    }


def derivative(values: torch.Tensor, step: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the derivative of each line and its measured error.

    Args:
        values: (K * 6, ...), the values at `POINTS` of each of K lines.
        step: distance of two points.
    """
    lines = values.reshape(-1, len(POINTS), *values.shape[1:])
    single, double, fourfold = (
        (lines[:, 5 - at] - lines[:, at]) / (2.0 * -POINTS[at] * step) for at in (2, 1, 0)
    )
    fine, coarse = (4.0 * single - double) / 3.0, (4.0 * double - fourfold) / 3.0
    return fine, (fine - coarse).abs()
