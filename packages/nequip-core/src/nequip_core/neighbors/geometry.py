"""Cells and periodicity as the backends need them, and the vectors along edges."""

from __future__ import annotations

import numpy as np
import torch

from nequip_core.errors import DataError
from nequip_core.fields import (
    BATCH_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    PBC_KEY,
    POSITIONS_KEY,
)
from nequip_core.frames import Frame, num_frames

__all__ = ["check_positions", "edge_vectors", "periodicity"]


def check_positions(data: Frame) -> None:
    """Check that every position is a finite number.

    Raises:
        DataError: one is not; the message names the atom, and its frame in a batch.
    """
    positions = data[POSITIONS_KEY]
    finite = torch.isfinite(positions).all(dim=-1)
    if bool(finite.all()):
        return
    atom = int((~finite).nonzero()[0])
    where = f"atom {atom}"
    if num_frames(data) > 1:
        frame = int(data[BATCH_KEY][atom])
        where += f" of the batch (in frame {frame})"
    raise DataError(
        f"the position of {where} is not finite: {positions[atom].tolist()}; a damaged file or "
        "an unstable simulation gives such positions"
    )


def periodicity(data: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Return cells (F, 3, 3), length, and pbc (F, 3), bool, on the CPU.

    Zero cell vectors of open directions are replaced by unit vectors normal to the others, so
    that no cell is singular. Without ``cell`` or ``pbc`` they are the unit cell and False.

    Raises:
        DataError: a cell is not finite, a periodic direction has no cell vector, cell vectors are
            coplanar, or the shapes do not fit the number of frames.
    """
    frames = num_frames(data)
    pbc = np.zeros((frames, 3), dtype=bool)
    if PBC_KEY in data:
        given = data[PBC_KEY].detach().cpu().numpy().astype(bool)
        pbc = _rows(PBC_KEY, given.reshape(-1, 3) if given.size > 1 else given, frames, (3,))
    cells = np.zeros((frames, 3, 3))
    if CELL_KEY in data and data[CELL_KEY].numel() > 0:
        given = data[CELL_KEY].detach().cpu().numpy().astype(np.float64)
        cells = _rows(CELL_KEY, given.reshape(-1, 3, 3), frames, (3, 3))
    if not pbc.any() and not cells.any():
        return np.broadcast_to(np.eye(3), cells.shape), pbc
    where = [f" of frame {index}" if frames > 1 else "" for index in range(frames)]
    parts = zip(cells, pbc, where, strict=True)
    return np.stack([_complete_cell(*part) for part in parts]), pbc


def _rows(key: str, value: np.ndarray, frames: int, shape: tuple[int, ...]) -> np.ndarray:
    if value.shape[0] not in (1, frames):
        raise DataError(f"'{key}' has {value.shape[0]} rows for {frames} frames")
    return np.broadcast_to(value, (frames, *shape))


def _complete_cell(cell: np.ndarray, pbc: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(cell).all():
        raise DataError(f"the cell{where} is not finite: {cell.tolist()}")
    lengths = np.linalg.norm(cell, axis=1)
    missing = lengths == 0.0
    if np.any(missing & pbc):
        names = [name for name, bad in zip("abc", missing & pbc, strict=True) if bad]
        raise DataError(
            f"pbc{where} is {pbc.tolist()} but cell vector {', '.join(names)} is missing or zero: "
            "give a cell vector for every periodic direction, or switch its periodicity off"
        )
    if missing.all():
        return np.eye(3)
    if missing.any():
        # Rows of the orthogonal complement of the given vectors fill the empty rows.
        _, _, right = np.linalg.svd(cell)
        cell = cell.copy()
        cell[missing] = right[3 - int(missing.sum()) :]
    if abs(np.linalg.det(cell)) < 1e-12 * float(np.prod(np.linalg.norm(cell, axis=1))):
        raise DataError(
            f"the cell vectors{where} lie in a plane: {cell.tolist()}; a cell needs three "
            "independent vectors, or zero vectors where pbc is False"
        )
    return cell


def edge_vectors(data: Frame) -> torch.Tensor:
    """Return the vectors from centre to neighbour, (E, 3), length, of data with a list."""
    centre, neighbour = data[EDGE_INDEX_KEY]
    positions = data[POSITIONS_KEY]
    vectors = positions.index_select(0, neighbour) - positions.index_select(0, centre)
    if EDGE_CELL_SHIFT_KEY not in data:
        return vectors
    shifts, cells = data[EDGE_CELL_SHIFT_KEY], data[CELL_KEY].view(-1, 3, 3)
    if cells.shape[0] == 1:
        return torch.addmm(vectors, shifts, cells[0])
    frame = data[BATCH_KEY].index_select(0, centre)
    return vectors + torch.einsum("ei,eij->ej", shifts, cells.index_select(0, frame))
