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

__all__ = ["EdgeGeometry", "edge_vectors"]


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
        vectors = data[EDGE_VECTORS_KEY] if EDGE_VECTORS_KEY in data else edge_vectors(data)
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


def edge_vectors(
    data: dict[str, torch.Tensor],
    edge_index_field: str = EDGE_INDEX_KEY,
    edge_cell_shift_field: str = EDGE_CELL_SHIFT_KEY,
) -> torch.Tensor:
    """Return the edge vectors (E, 3), length, of positions and, where there is one, cell."""
    centre, neighbour = data[edge_index_field][0], data[edge_index_field][1]
    positions = data[POSITIONS_KEY]
    vectors = positions.index_select(0, neighbour) - positions.index_select(0, centre)
    if CELL_KEY not in data or edge_cell_shift_field not in data:
        return vectors
    shifts, cells = data[edge_cell_shift_field].to(vectors.dtype), data[CELL_KEY]
    if BATCH_KEY not in data:
        return vectors + shifts @ cells.reshape(3, 3)
    frames = data[BATCH_KEY].index_select(0, centre)
    cells = cells.reshape(-1, 3, 3).index_select(0, frames)
    return vectors + torch.bmm(shifts.unsqueeze(1), cells).squeeze(1)
