"""Made-up structures of the kinds that users have, to compare and to differentiate models on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nequip_core.fields import (
    ATOM_TYPE_KEY,
    CELL_KEY,
    PBC_KEY,
    POSITIONS_KEY,
)
from nequip_core.frames import Frame, from_dict
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.synthetic import synthetic_frame

__all__ = ["many_kinds", "small_structures"]

# Edges of a cell that is far from orthogonal, angles of 60 to 75 degrees.
_TRICLINIC = ((1.0, 0.0, 0.0), (0.45, 0.9, 0.0), (-0.3, 0.4, 0.85))


def many_kinds(type_names: Sequence[str], r_max: float) -> dict[str, Frame]:
    """Return frames of several sizes and kinds with neighbor lists, by a short description."""
    types = len(type_names)
    return {
        "crystal": synthetic_frame(type_names, r_max, num_atoms=max(27, types), seed=11),
        "crystal smaller than the cutoff": synthetic_frame(type_names, r_max, num_atoms=1, seed=12),
        "triclinic crystal": _triclinic(type_names, r_max),
        "cluster": synthetic_frame(
            type_names, r_max, periodic=False, num_atoms=max(13, types), seed=13
        ),
        "planar molecule": _planar(types, r_max),
        "slab": _slab(type_names, r_max),
        "single atom": _single_atom(r_max),
    }


def small_structures(type_names: Sequence[str], r_max: float) -> dict[str, Frame]:
    """Return frames of few atoms that hold every type, to move each atom of.

    The first two are a cluster and a crystal; where a model has more types than the cluster has
    atoms, a further cluster has the next ones, and so on.
    """
    size = 5
    frames = {
        "small cluster": synthetic_frame(
            type_names, r_max, periodic=False, num_atoms=size, seed=15
        ),
        "small crystal": synthetic_frame(type_names, r_max, num_atoms=3, seed=16),
    }
    for first in range(size, len(type_names), size):
        names = type_names[first : first + size]
        cluster = synthetic_frame(names, r_max, periodic=False, num_atoms=size, seed=17 + first)
        cluster[ATOM_TYPE_KEY] = cluster[ATOM_TYPE_KEY] + first
        frames[f"cluster of types {first} to {first + len(names) - 1}"] = cluster
    return frames


def _with_neighbors(
    positions: torch.Tensor, cell: torch.Tensor, pbc: list[bool], types: torch.Tensor, r_max: float
) -> Frame:
    frame = from_dict(
        {POSITIONS_KEY: positions, CELL_KEY: cell, PBC_KEY: pbc, ATOM_TYPE_KEY: types}
    )
    return compute_neighborlist_(frame, r_max)


def _slab(type_names: Sequence[str], r_max: float) -> Frame:
    """Return a crystal cut open along its third cell vector, with vacuum in between."""
    bulk = synthetic_frame(type_names, r_max, num_atoms=max(18, len(type_names)), seed=14)
    cell = bulk[CELL_KEY].clone()
    cell[:, 2, :] *= 1.0 + 3.0 * r_max / float(cell[0, 2].norm())
    return _with_neighbors(
        bulk[POSITIONS_KEY], cell, [True, True, False], bulk[ATOM_TYPE_KEY], r_max
    )


def _triclinic(type_names: Sequence[str], r_max: float) -> Frame:
    """Return a crystal whose cell vectors are far from orthogonal, with a negative volume."""
    bulk = synthetic_frame(type_names, r_max, num_atoms=max(8, len(type_names)), seed=18)
    length = bulk[CELL_KEY].reshape(3, 3).norm(dim=1, keepdim=True)
    cell = torch.tensor(_TRICLINIC, dtype=torch.float64) * length
    fractional = torch.linalg.solve(bulk[CELL_KEY].reshape(3, 3).T, bulk[POSITIONS_KEY].T).T
    # The order of two vectors exchanged: a left-handed cell.
    return _with_neighbors(
        fractional @ cell, cell[[1, 0, 2]], [True] * 3, bulk[ATOM_TYPE_KEY], r_max
    )


def _planar(types: int, r_max: float) -> Frame:
    """Return four atoms in a plane without a cell: there is no volume to divide by."""
    corners = [[0.0, 0.0, 0.0], [0.4, 0.05, 0.0], [-0.1, 0.45, 0.0], [0.35, 0.5, 0.0]]
    return _with_neighbors(
        torch.tensor(corners, dtype=torch.float64) * r_max,
        torch.zeros(1, 3, 3, dtype=torch.float64),
        [False] * 3,
        torch.arange(4) % types,
        r_max,
    )


def _single_atom(r_max: float) -> Frame:
    """Return one atom without neighbors or cell."""
    return _with_neighbors(
        torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64),
        torch.zeros(1, 3, 3, dtype=torch.float64),
        [False] * 3,
        torch.zeros(1, dtype=torch.int64),
        r_max,
    )
