"""Edge vectors and lengths, in float64."""

from __future__ import annotations

import torch

from nequip_core.fields import (
    ATOM_TYPE_KEY,
    BATCH_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    EDGE_LENGTH_KEY,
    EDGE_VECTORS_KEY,
    NORM_LENGTH_KEY,
    POSITIONS_KEY,
)

__all__ = ["EdgeGeometry"]


class EdgeGeometry(torch.nn.Module):
    """Add ``edge_vectors`` (E, 3), ``edge_lengths`` and ``normed_edge_lengths`` (E, 1).

    An edge points from its centre ``edge_index[0]`` to its neighbour ``edge_index[1]``:
    d = pos[neighbour] - pos[centre] + shift @ cell, length. The normed length is |d| / r_cut,
    dimensionless, with the cutoff of the edge's type pair. ``edge_vectors`` among the inputs are
    taken as they are; positions are not read then.

    Args:
        r_max: global cutoff, length.
        cutoffs: T x T table ``[centre][neighbour]`` of cutoffs, or None for `r_max` everywhere.
    """

    def __init__(self, r_max: float, cutoffs: list[list[float]] | None = None) -> None:
        super().__init__()
        self.num_types = len(cutoffs) if cutoffs is not None else 0
        table = torch.tensor(cutoffs if cutoffs is not None else r_max, dtype=torch.float64)
        self.register_buffer("reciprocal_cutoff", table.reciprocal().reshape(-1))
        self.reciprocal_cutoff: torch.Tensor

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with the edge geometry."""
        centre, neighbour = data[EDGE_INDEX_KEY][0], data[EDGE_INDEX_KEY][1]
        vectors = (
            data[EDGE_VECTORS_KEY]
            if EDGE_VECTORS_KEY in data
            else _edge_vectors(data, centre, neighbour)
        )
        # Not linalg.norm: its double backward has more operations than this square root.
        lengths = vectors.square().sum(dim=-1, keepdim=True).sqrt()
        reciprocal = self.reciprocal_cutoff
        if self.num_types:
            types = data[ATOM_TYPE_KEY]
            pair = types.index_select(0, centre) * self.num_types + types.index_select(0, neighbour)
            reciprocal = reciprocal.index_select(0, pair).unsqueeze(-1)
        data[EDGE_VECTORS_KEY] = vectors
        data[EDGE_LENGTH_KEY] = lengths
        data[NORM_LENGTH_KEY] = lengths * reciprocal
        return data


def _edge_vectors(
    data: dict[str, torch.Tensor], centre: torch.Tensor, neighbour: torch.Tensor
) -> torch.Tensor:
    """Return the edge vectors (E, 3), length, of positions and cell."""
    positions = data[POSITIONS_KEY]
    vectors = positions.index_select(0, neighbour) - positions.index_select(0, centre)
    if CELL_KEY not in data or EDGE_CELL_SHIFT_KEY not in data:
        return vectors
    shifts, cells = data[EDGE_CELL_SHIFT_KEY].to(vectors.dtype), data[CELL_KEY]
    if BATCH_KEY not in data:
        return vectors + shifts @ cells.reshape(3, 3)
    cells = cells.index_select(0, data[BATCH_KEY].index_select(0, centre))
    return vectors + torch.bmm(shifts.unsqueeze(1), cells).squeeze(1)
