"""Neighbor lists: full (both directions), without self-interaction at zero shift, in one order.

``edge_index`` (2, E) int64 has the centre in row 0 and the neighbour in row 1; ``edge_cell_shift``
(E, 3) are whole cell vectors to add: d = pos[neighbour] - pos[centre] + shift @ cell. Edges are
sorted by centre, then neighbour, then shift, so every backend gives the same tensors.

| backend | library | runs on |
|---|---|---|
| ``vesin`` (default) | vesin | CPU |
| ``matscipy`` | extra ``nequip-core[matscipy]`` | CPU |
| ``ase`` | extra ``nequip-core[ase]`` | CPU, slow |
| ``torch`` | none | the device of the data, a batch at once |

Further ones come from `register_neighborlist_backend`, or from the entry-point group
``nequip.neighbor_backends`` of an installed distribution. Such an entry is either a
`NeighborlistBackendSpec`, or a function ``(positions, cell, pbc, r_max) -> (edge_index, shifts)``
of one frame on numpy arrays:

- positions: (N, 3) float64, length, N > 0; need not be wrapped into the cell.
- cell: (3, 3) float64, rows are the cell vectors, length; never singular, may be left-handed.
- pbc: (3,) bool.
- edge_index: (2, E) int64, in any order; shifts: (E, 3) int64.
"""

from nequip_core.neighbors.backends import (
    DEFAULT_BACKEND,
    DEFAULT_NEIGHBORLIST_BACKEND,
    NEIGHBORLIST_BACKEND_ALCHEMIOPS,
    NEIGHBORLIST_BACKEND_ASE,
    NEIGHBORLIST_BACKEND_MATSCIPY,
    NEIGHBORLIST_BACKEND_OPTIONS,
    NEIGHBORLIST_BACKEND_TORCH,
    NEIGHBORLIST_BACKEND_VESIN,
    NeighborlistBackendSpec,
    neighborlist_backend,
    register_neighborlist_backend,
)
from nequip_core.neighbors.geometry import edge_vectors
from nequip_core.neighbors.list import compute_neighborlist_, edge_order, keep_edges_
from nequip_core.neighbors.numpy_backends import (
    Backend,
    ase_neighbors,
    matscipy_neighbors,
    vesin_neighbors,
)
from nequip_core.neighbors.skin import SkinnedNeighborList
from nequip_core.neighbors.torch_backend import torch_neighbors

__all__ = [
    "DEFAULT_BACKEND",
    "DEFAULT_NEIGHBORLIST_BACKEND",
    "NEIGHBORLIST_BACKEND_ALCHEMIOPS",
    "NEIGHBORLIST_BACKEND_ASE",
    "NEIGHBORLIST_BACKEND_MATSCIPY",
    "NEIGHBORLIST_BACKEND_OPTIONS",
    "NEIGHBORLIST_BACKEND_TORCH",
    "NEIGHBORLIST_BACKEND_VESIN",
    "Backend",
    "NeighborlistBackendSpec",
    "SkinnedNeighborList",
    "ase_neighbors",
    "compute_neighborlist_",
    "edge_order",
    "edge_vectors",
    "keep_edges_",
    "matscipy_neighbors",
    "neighborlist_backend",
    "register_neighborlist_backend",
    "torch_neighbors",
    "vesin_neighbors",
]
