"""Neighbor lists: full (both directions), without self-interaction at zero shift, sorted by centre.

A backend is a function ``(positions, cell, pbc, r_max) -> (edge_index, shifts)`` on numpy arrays,
offered in the entry-point group ``nequip.neighbor_backends``:

- positions: (N, 3) float64, length; need not be wrapped into the cell.
- cell: (3, 3) float64, rows are the cell vectors, length; never singular.
- pbc: (3,) bool.
- edge_index: (2, E) int64, row 0 the centre, row 1 the neighbour, sorted by centre.
- shifts: (E, 3) int64, whole cell vectors to add: d = pos[j] - pos[i] + shift @ cell.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from nequip_core.errors import DataError
from nequip_core.fields import CELL_KEY, EDGE_CELL_SHIFT_KEY, EDGE_INDEX_KEY, PBC_KEY, POSITIONS_KEY
from nequip_core.frames import (
    Frame,
    batched_from_list,
    frame_from_batched,
    is_batched,
    num_frames,
)
from nequip_core.plugins import NEIGHBOR_BACKENDS, load_plugin

__all__ = ["DEFAULT_BACKEND", "Backend", "compute_neighborlist_", "vesin_neighbors"]

Backend = Callable[[np.ndarray, np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray]]

DEFAULT_BACKEND = "vesin"


def vesin_neighbors(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, r_max: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return edges by vesin's cell list; linear in atoms. See the module's text for the shapes."""
    from vesin import NeighborList

    # One thread: the list is a small part of a step, and workers must not oversubscribe the cores.
    calculator = NeighborList(cutoff=r_max, full_list=True, sorted=True, n_threads=1)
    centre, neighbour, shifts = calculator.compute(
        points=positions, box=cell, periodic=pbc, quantities="ijS"
    )
    edge_index = np.stack([centre.astype(np.int64), neighbour.astype(np.int64)])
    return edge_index, shifts.astype(np.int64)


@functools.cache
def _backend(name: str) -> Backend:
    """Return a backend; kept, because looking through entry points takes longer than a list."""
    return load_plugin(NEIGHBOR_BACKENDS, name)


def _complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Return `cell` with its zero vectors replaced by unit vectors normal to the others.

    Raises:
        DataError: a periodic direction has no cell vector, or the cell vectors are coplanar.
    """
    lengths = np.linalg.norm(cell, axis=1)
    missing = lengths == 0.0
    if np.any(missing & pbc):
        raise DataError(
            f"pbc is {pbc.tolist()} but the cell vectors have lengths {lengths.tolist()}: "
            "give a cell vector for every periodic direction, or switch its periodicity off"
        )
    if missing.any():
        # Rows of the orthogonal complement of the given vectors fill the empty rows.
        _, _, right = np.linalg.svd(cell)
        cell = cell.copy()
        cell[missing] = right[3 - int(missing.sum()) :]
    if abs(np.linalg.det(cell)) < 1e-12 * max(1.0, float(np.prod(np.linalg.norm(cell, axis=1)))):
        raise DataError(f"the cell vectors lie in a plane: {cell.tolist()}")
    return cell


def compute_neighborlist_(data: Frame, r_max: float, backend: str = DEFAULT_BACKEND) -> Frame:
    """Add ``edge_index`` (2, E) and, where there is a cell, ``edge_cell_shift`` (E, 3) in place.

    Args:
        data: a frame or a batch; ``pbc`` (3,) or (F, 3) and ``cell`` (3, 3) or (F, 3, 3) are
            optional.
        r_max: cutoff radius, in the unit of the positions.
        backend: name of an entry of ``nequip.neighbor_backends``.

    Raises:
        DataError: positions or cell are not finite, or the cell does not fit the periodicity.
        PluginError: there is no such backend.
    """
    if not r_max > 0.0:
        raise DataError(f"the cutoff radius must be positive, got {r_max}")
    find = _backend(backend)
    if is_batched(data) and num_frames(data) > 1:
        stale = (EDGE_INDEX_KEY, EDGE_CELL_SHIFT_KEY)
        bare = {key: value for key, value in data.items() if key not in stale}
        frames = [dict(frame_from_batched(bare, index)) for index in range(num_frames(data))]
        data.update(batched_from_list([_single_frame_(frame, r_max, find) for frame in frames]))
        return data
    return _single_frame_(data, r_max, find)


def _single_frame_(data: Frame, r_max: float, find: Backend) -> Frame:
    positions = data[POSITIONS_KEY]
    points = positions.detach().cpu().numpy().astype(np.float64, copy=False)
    has_cell = CELL_KEY in data and data[CELL_KEY].numel() == 9
    cell = np.zeros((3, 3))
    if has_cell:
        cell = data[CELL_KEY].detach().cpu().numpy().reshape(3, 3).astype(np.float64, copy=False)
    pbc = np.zeros(3, dtype=bool)
    if PBC_KEY in data:
        pbc = np.broadcast_to(data[PBC_KEY].cpu().numpy().reshape(-1), 3).astype(bool)
    if not np.isfinite(points).all():
        atom = int(np.argwhere(~np.isfinite(points))[0, 0])
        raise DataError(f"the position of atom {atom} is not finite: {points[atom].tolist()}")
    if not np.isfinite(cell).all():
        raise DataError(f"the cell is not finite: {cell.tolist()}")
    if len(points):
        edge_index, shifts = find(points, _complete_cell(cell, pbc), pbc, float(r_max))
    else:
        edge_index, shifts = np.zeros((2, 0), np.int64), np.zeros((0, 3), np.int64)
    device = positions.device
    data[EDGE_INDEX_KEY] = torch.as_tensor(edge_index, device=device)
    if has_cell:
        data[EDGE_CELL_SHIFT_KEY] = torch.as_tensor(shifts, device=device).to(torch.float64)
    return data
