"""The compile target of LAMMPS' pair style ``allegro``: ghost atoms in place of a cell.

| field | shape, dtype | |
|---|---|---|
| `pos` | (N, 3) float64 | local atoms, then ghosts; length |
| `edge_index` | (2, E) int64 | centres are local atoms, neighbours local or ghost |
| `atom_types` | (N,) int64 | index into the model's type names |

Returned are `atomic_energy` (N, 1), `forces` (N, 3) and `virial` (1, 3, 3). The energy of the local
atoms is that of the process; forces on ghosts belong to the atoms that they are images of.
"""

from __future__ import annotations

import torch

from nequip_core.compile_targets import CompileTarget
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    FORCE_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    VIRIAL_KEY,
)
from nequip_core.frames import Frame

__all__ = ["PAIR_ALLEGRO", "with_ghost_atoms"]


def with_ghost_atoms(frame: Frame) -> Frame:
    """Return positions, types and edges of a frame with images of atoms as atoms of their own.

    Args:
        frame: one frame with a neighbor list: ``pos`` (N, 3), ``atom_types`` (N,), ``edge_index``
            (2, E), and, where it is periodic, ``cell`` and ``edge_cell_shift`` (E, 3).
    """
    positions, types = frame[POSITIONS_KEY], frame[ATOM_TYPE_KEY].reshape(-1)
    edges = frame[EDGE_INDEX_KEY]
    ghosts = {POSITIONS_KEY: positions, ATOM_TYPE_KEY: types, EDGE_INDEX_KEY: edges}
    if EDGE_CELL_SHIFT_KEY not in frame:
        return ghosts
    shifts = frame[EDGE_CELL_SHIFT_KEY].round().to(edges.dtype)
    outside = shifts.ne(0).any(dim=1)
    # One ghost for each image that some edge ends at.
    images, place = torch.unique(
        torch.cat([edges[1, outside].unsqueeze(1), shifts[outside]], dim=1),
        dim=0,
        return_inverse=True,
    )
    owners, moved = images[:, 0], images[:, 1:].to(positions.dtype)
    cell = frame[CELL_KEY].reshape(3, 3).to(positions.dtype)
    neighbours = edges[1].clone()
    neighbours[outside] = positions.shape[0] + place
    ghosts[POSITIONS_KEY] = torch.cat([positions, positions[owners] + moved @ cell])
    ghosts[ATOM_TYPE_KEY] = torch.cat([types, types[owners]])
    ghosts[EDGE_INDEX_KEY] = torch.stack([edges[0], neighbours])
    return ghosts


PAIR_ALLEGRO = CompileTarget(
    name="pair_allegro",
    inputs=(POSITIONS_KEY, EDGE_INDEX_KEY, ATOM_TYPE_KEY),
    outputs=(PER_ATOM_ENERGY_KEY, FORCE_KEY, VIRIAL_KEY),
    dynamic_frames=False,
    prepare=with_ghost_atoms,
)
"""The pair style ``allegro`` of LAMMPS, on one or more processes."""
