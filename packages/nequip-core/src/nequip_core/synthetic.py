"""Made-up frames that fit a model: examples for export, packaging and checks.

They hold no training data, so nothing of a data set leaks into a file that carries one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nequip_core.fields import ATOM_TYPE_KEY, CELL_KEY, PBC_KEY, POSITIONS_KEY
from nequip_core.frames import Frame, from_dict
from nequip_core.neighbors import compute_neighborlist_

__all__ = ["synthetic_frame"]

# Grid spacing in units of r_max: some 30 neighbors an atom, no two atoms on top of each other.
_SPACING, _JITTER = 0.5, 0.08


def synthetic_frame(
    type_names: Sequence[str],
    r_max: float,
    *,
    periodic: bool = True,
    num_atoms: int | None = None,
    seed: int = 0,
) -> Frame:
    """Return a disordered frame with every atom type, a neighbor list and no labels.

    The same arguments give the same frame.

    Args:
        type_names: the model's T type names in order.
        r_max: the model's cutoff radius; sets the scale of the geometry.
        periodic: a skewed periodic cell, or a cluster with a zero cell.
        num_atoms: number of atoms, at least T for all types to occur; default max(8, 2 T).
        seed: of the disorder.

    Returns:
        A frame with ``pos`` (N, 3), ``cell`` (1, 3, 3), ``pbc``, ``atom_types`` (N,),
        ``edge_index`` (2, E), ``edge_cell_shift`` (E, 3).
    """
    rng = np.random.default_rng(seed)
    count = max(8, 2 * len(type_names)) if num_atoms is None else num_atoms
    cells = int(np.ceil(count ** (1 / 3)))
    spacing = _SPACING * r_max
    grid = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    skew = np.array([[1.0, 0.0, 0.0], [0.1, 1.0, 0.0], [-0.05, 0.15, 1.0]])
    jitter = rng.uniform(-_JITTER, _JITTER, size=(count, 3)) * r_max
    positions = grid[:count] @ skew * spacing + jitter
    cell = skew * cells * spacing if periodic else np.zeros((3, 3))
    frame = from_dict(
        {
            POSITIONS_KEY: positions,
            CELL_KEY: cell,
            PBC_KEY: [periodic] * 3,
            ATOM_TYPE_KEY: rng.permutation(np.arange(count) % len(type_names)),
        }
    )
    return compute_neighborlist_(frame, r_max)
