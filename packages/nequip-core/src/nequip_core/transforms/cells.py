"""Cells: their volume, and boxes around molecules."""

from __future__ import annotations

import torch

from nequip_core.errors import ConfigError
from nequip_core.fields import BATCH_KEY, CELL_KEY, PBC_KEY, POSITIONS_KEY
from nequip_core.frames import Frame, num_frames

__all__ = ["NonPeriodicCellTransform", "cell_volume"]


def cell_volume(cell: torch.Tensor) -> torch.Tensor:
    """Return the volumes |a . (b x c)|, (F, 1, 1), length^3, of cells (F, 3, 3)."""
    return (cell[:, 0] * torch.linalg.cross(cell[:, 1], cell[:, 2])).sum(-1).abs().view(-1, 1, 1)


class NonPeriodicCellTransform(torch.nn.Module):
    """Put molecules into orthogonal boxes, for engines that need a cell.

    The box is the extent of the positions with `padding` on each side; positions are shifted to
    start at `padding`. A frame of a batch stays as it is where it is periodic in any direction, or
    has a cell already; a cell of zeros, which stands for none, counts as absent.

    Args:
        padding: length between the atoms and each face of the box.
        override_cell: replace cells that are there.

    Raises:
        ConfigError: the padding is not positive.
    """

    def __init__(self, padding: float = 10.0, override_cell: bool = False) -> None:
        super().__init__()
        if not padding > 0.0:
            raise ConfigError(f"padding must be a positive length, got {padding!r}")
        self.padding = float(padding)
        self.override_cell = override_cell

    def forward(self, data: Frame) -> Frame:
        """Return the frame, or batch, with its cells."""
        if PBC_KEY not in data:
            return data
        positions = data[POSITIONS_KEY]
        frames = num_frames(data)
        cells = data.get(CELL_KEY)
        if cells is None:
            cells = positions.new_zeros((frames, 3, 3))
        boxed = ~data[PBC_KEY].view(frames, 3).any(dim=1)
        if not self.override_cell:
            boxed = boxed & ~cells.view(frames, 9).any(dim=1)
        if not bool(boxed.any()):
            return data
        batch = data.get(BATCH_KEY)
        if batch is None:
            batch = positions.new_zeros(len(positions), dtype=torch.int64)
        index = batch.unsqueeze(-1).expand(-1, 3)
        low, high = (
            positions.new_zeros((frames, 3)).scatter_reduce(
                0, index, positions, reduction, include_self=False
            )
            for reduction in ("amin", "amax")
        )
        shift = torch.where(boxed.unsqueeze(-1), self.padding - low, 0.0)
        boxes = torch.diag_embed(high - low + 2.0 * self.padding)
        data[POSITIONS_KEY] = positions + shift.index_select(0, batch)
        data[CELL_KEY] = torch.where(boxed.view(-1, 1, 1), boxes, cells)
        return data
