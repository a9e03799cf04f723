"""A list with a skin, kept from step to step while no pair can have come within the cutoff."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from nequip_core.errors import ConfigError
from nequip_core.fields import (
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    NUM_NODES_KEY,
    PBC_KEY,
    POSITIONS_KEY,
)
from nequip_core.frames import Frame
from nequip_core.neighbors.backends import DEFAULT_BACKEND
from nequip_core.neighbors.geometry import edge_vectors
from nequip_core.neighbors.list import (
    checked_cutoff,
    compute_neighborlist_,
    drop_edges_,
    keep_edges_,
)

__all__ = ["SkinnedNeighborList"]


class SkinnedNeighborList:
    """`compute_neighborlist_` for structures that follow each other, as in a simulation.

    The list is made with the cutoff ``r_max + skin`` and reused until a pair that is not in it
    could be within ``r_max``; each call gives the edges within ``r_max`` only. Between two calls
    atoms may be wrapped into the cell or out of it, and the cell may change; other numbers of
    atoms, other boundary conditions, or a jump to another structure make a new list, and so does
    every batch of several frames. Species play no part: cutoffs by type are applied to the result.

    Source: L. Verlet, Phys. Rev. 159, 98 (1967). A list made for positions x0 and the cell H0
    serves positions x = x0 F + u in the cell H = H0 F, where F is the deformation: a pair at
    distance d was at (d + 2 max|u|) / s_min(F) or less, s_min being the smallest singular value.

    Args:
        r_max: cutoff radius, length.
        skin: how much further the kept list reaches, length; 0 makes a new list at every call.
        backend: name of a backend.
        backend_kwargs: its options.

    Raises:
        ConfigError: the skin is negative or not finite.
        DataError: the cutoff is not positive.
    """

    def __init__(
        self,
        r_max: float,
        skin: float,
        backend: str = DEFAULT_BACKEND,
        backend_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if not (math.isfinite(skin) and skin >= 0.0):
            raise ConfigError(f"the skin of a neighbor list must be zero or more, got {skin}")
        self.r_max = checked_cutoff(r_max)
        self.skin = float(skin)
        self.backend = backend
        self.backend_kwargs = dict(backend_kwargs or {})
        self.builds = 0
        """How many lists have been made so far."""
        self._kept: Frame = {}

    def __call__(self, data: Frame) -> Frame:
        """Add the edges within ``r_max`` to a frame in place, see `compute_neighborlist_`.

        Raises:
            DataError: positions or cell are not finite, or do not fit each other.
        """
        single = NUM_NODES_KEY not in data or data[NUM_NODES_KEY].numel() == 1
        if self.skin == 0.0 or not single:
            self.builds += 1
            return compute_neighborlist_(data, self.r_max, self.backend, self.backend_kwargs)
        moved = self._whole_cells_moved(data)
        if moved is None:
            self._build(data)
            moved = torch.zeros((1, 3), dtype=data[POSITIONS_KEY].dtype)
        self._apply_(data, moved)
        vectors = edge_vectors(data).detach()
        return keep_edges_(data, torch.einsum("ei,ei->e", vectors, vectors) <= self.r_max**2)

    def _build(self, data: Frame) -> None:
        self._kept = {}  # an error below leaves no list behind
        compute_neighborlist_(data, self.r_max + self.skin, self.backend, self.backend_kwargs)
        fields = (POSITIONS_KEY, CELL_KEY, PBC_KEY, EDGE_INDEX_KEY, EDGE_CELL_SHIFT_KEY)
        # Copies: engines may write new positions into the same memory.
        self._kept = {key: data[key].detach().clone() for key in fields if key in data}
        self.builds += 1

    def _apply_(self, data: Frame, moved: torch.Tensor) -> None:
        """Put the kept edges into `data`, where atoms have `moved` by whole cells, (N or 1, 3)."""
        drop_edges_(data)
        data[EDGE_INDEX_KEY] = self._kept[EDGE_INDEX_KEY]
        if EDGE_CELL_SHIFT_KEY in self._kept:
            shifts = self._kept[EDGE_CELL_SHIFT_KEY]
            if moved.any():
                centre, neighbour = data[EDGE_INDEX_KEY]
                shifts = shifts + moved[centre] - moved[neighbour]
            data[EDGE_CELL_SHIFT_KEY] = shifts

    def _whole_cells_moved(self, data: Frame) -> torch.Tensor | None:
        """Return by how many cells atoms were wrapped since the list was made, (N, 3).

        None if the list does not serve this structure.
        """
        kept, positions = self._kept, data[POSITIONS_KEY].detach()
        if not kept or positions.shape != kept[POSITIONS_KEY].shape or not len(positions):
            return None
        same = (positions.device, positions.dtype) == (
            kept[POSITIONS_KEY].device,
            kept[POSITIONS_KEY].dtype,
        )
        if not same or (CELL_KEY in data) != (CELL_KEY in kept) or not _equal(data, kept, PBC_KEY):
            return None
        moved = torch.zeros_like(positions)
        travel, shrink = positions - kept[POSITIONS_KEY], 1.0
        if CELL_KEY in kept:
            cell, before = data[CELL_KEY].detach().view(3, 3), kept[CELL_KEY].view(3, 3)
            pbc = data[PBC_KEY].view(-1) if PBC_KEY in data else torch.zeros(3, dtype=torch.bool)
            if not torch.equal(cell, before):
                deformation = _deformation(before, cell)
                if deformation is None:
                    return None
                shrink = float(torch.linalg.svdvals(deformation)[-1])
                travel = positions - kept[POSITIONS_KEY] @ deformation
            if pbc.any():
                # The pseudo-inverse serves cells that lack the vectors of open directions.
                whole = (travel @ torch.linalg.pinv(cell)).round()
                moved = torch.where(pbc.to(whole.device), whole, 0.0)
                travel = travel - moved @ cell
        farthest = float(travel.square().sum(-1).max().sqrt())
        # NaN serves nothing: it fails this comparison and is named when a list is made.
        serves = self.r_max + 2.0 * farthest < shrink * (self.r_max + self.skin)
        return moved if serves else None


def _equal(data: Frame, kept: Frame, key: str) -> bool:
    if key not in data or key not in kept:
        return key not in data and key not in kept
    return torch.equal(data[key], kept[key])


def _deformation(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor | None:
    """Return F (3, 3) with after = before F, or None where a cell is singular or not finite."""
    scale = before.norm(dim=-1).prod()
    if not (torch.isfinite(after).all() and torch.linalg.det(before).abs() > 1e-9 * scale):
        return None
    return torch.linalg.solve(before, after)
