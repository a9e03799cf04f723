"""Made-up structures for checks: small, without symmetry where that matters, always the same.

Every function returns a frame (see `nequip_core.frames`) with a neighbor list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from nequip_core.fields import ATOM_TYPE_KEY, CELL_KEY, PBC_KEY, POSITIONS_KEY
from nequip_core.frames import Frame, from_dict
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.synthetic import synthetic_frame

__all__ = [
    "acetaldehyde",
    "atoms",
    "bulk_copper",
    "chain",
    "diamond_carbon",
    "mixed_frames",
    "slab",
]

# An idealised CH3-CHO: bond lengths 1.50, 1.21, 1.09-1.11 Angstrom; no two atoms equivalent.
_ACETALDEHYDE: tuple[tuple[str, tuple[float, float, float]], ...] = (
    ("O", (1.22, 0.36, 0.03)),
    ("C", (0.23, -0.33, -0.02)),
    ("H", (0.33, -1.44, -0.05)),
    ("C", (-1.17, 0.19, 0.01)),
    ("H", (-1.18, 1.26, 0.24)),
    ("H", (-1.74, -0.34, 0.79)),
    ("H", (-1.66, 0.00, -0.95)),
)


def atoms(
    positions: Sequence[Sequence[float]],
    types: Sequence[int],
    r_max: float,
    cell: Sequence[Sequence[float]] | None = None,
    pbc: Sequence[bool] = (False, False, False),
) -> Frame:
    """Return a frame of atoms at `positions` (N, 3), length; without `cell` a zero cell."""
    frame = from_dict(
        {
            POSITIONS_KEY: torch.tensor(positions, dtype=torch.float64),
            ATOM_TYPE_KEY: torch.tensor(types),
            CELL_KEY: torch.tensor([[0.0] * 3] * 3 if cell is None else cell, dtype=torch.float64),
            PBC_KEY: list(pbc),
        }
    )
    return compute_neighborlist_(frame, r_max)


def acetaldehyde(type_names: Sequence[str], r_max: float) -> Frame:
    """Return a CH3CHO molecule, Angstrom; a species that is not a type gets one by number."""
    names = list(type_names)
    species = ["H", "C", "O"]
    types = [
        names.index(symbol) if symbol in names else species.index(symbol) % len(names)
        for symbol, _ in _ACETALDEHYDE
    ]
    return atoms([place for _, place in _ACETALDEHYDE], types, r_max)


def bulk_copper(r_max: float, repeat: int = 1, rattle: float = 0.0, atom_type: int = 0) -> Frame:
    """Return cubic fcc cells of copper, 4 repeat^3 atoms, a = 3.61 Angstrom.

    Args:
        r_max: cutoff radius, Angstrom.
        repeat: cells along each axis.
        rattle: standard deviation of random displacements, Angstrom.
        atom_type: of every atom.
    """
    basis = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
    return _cubic(basis, 3.61, r_max, repeat, rattle, atom_type)


def diamond_carbon(r_max: float, rattle: float = 0.0, atom_type: int = 0) -> Frame:
    """Return the cubic cell of diamond, 8 atoms, a = 3.57 Angstrom; arguments as bulk copper."""
    face = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
    basis = face + [[x + 0.25 for x in place] for place in face]
    return _cubic(basis, 3.57, r_max, 1, rattle, atom_type)


def _cubic(
    basis: list[list[float]], a: float, r_max: float, repeat: int, rattle: float, atom_type: int
) -> Frame:
    cells = [[i, j, k] for i in range(repeat) for j in range(repeat) for k in range(repeat)]
    places = torch.tensor(cells, dtype=torch.float64).unsqueeze(1) + torch.tensor(basis).double()
    positions = places.reshape(-1, 3) * a
    generator = torch.Generator().manual_seed(17)
    positions += rattle * torch.randn(positions.shape, dtype=torch.float64, generator=generator)
    cell = (torch.eye(3, dtype=torch.float64) * a * repeat).tolist()
    types = [atom_type] * len(positions)
    return atoms(positions.tolist(), types, r_max, cell, (True, True, True))


def chain(type_names: Sequence[str], r_max: float, num_atoms: int = 6) -> Frame:
    """Return a helix of atoms some 0.5 r_max apart: its ends are far beyond the cutoff."""
    places = [
        [0.45 * r_max * i, 0.15 * r_max * math.cos(1.7 * i), 0.15 * r_max * math.sin(1.7 * i)]
        for i in range(num_atoms)
    ]
    return atoms(places, [i % len(type_names) for i in range(num_atoms)], r_max)


def slab(type_names: Sequence[str], r_max: float) -> Frame:
    """Return a disordered layer, periodic along two skewed vectors, with vacuum along the third."""
    frame = synthetic_frame(type_names, r_max, seed=4)
    cell = frame[CELL_KEY].clone()
    cell[0, 2] *= 3.0
    bare = {k: v for k, v in frame.items() if "edge" not in k}
    bare.update({CELL_KEY: cell, PBC_KEY: torch.tensor([[True, True, False]])})
    return compute_neighborlist_(bare, r_max)


def mixed_frames(type_names: Sequence[str], r_max: float) -> list[Frame]:
    """Return a triclinic crystal smaller than twice the cutoff, a cluster and a slab.

    Lengths are in units of `r_max`, so that they fit a model in any unit; all types occur in each.
    """
    cluster_atoms = max(7, len(type_names))
    return [
        synthetic_frame(type_names, r_max),
        synthetic_frame(type_names, r_max, periodic=False, num_atoms=cluster_atoms, seed=5),
        slab(type_names, r_max),
    ]
