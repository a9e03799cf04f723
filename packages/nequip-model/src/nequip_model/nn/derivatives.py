"""Forces, virial and stress by automatic differentiation."""

from __future__ import annotations

import torch

from nequip_core.fields import (
    BATCH_KEY,
    CELL_KEY,
    FORCE_KEY,
    NUM_NODES_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
    VIRIAL_KEY,
)

__all__ = ["ForceStressOutput"]


class ForceStressOutput(torch.nn.Module):
    """Add ``forces`` (N, 3), ``virial`` (F, 3, 3) and, with a cell, ``stress`` (F, 3, 3).

    With a symmetric strain eta of each frame, pos <- pos + pos eta and cell <- cell + cell eta:
    forces = -dE/dpos, virial = -dE/deta, stress = (dE/deta) / V, V = |a . (b x c)|. A frame whose
    cell has no volume has no stress; its entry is zero.

    Args:
        energy: module that adds ``total_energy`` (F, 1).
        do_derivatives: compute the derivatives, or energies only.

    Source: Knuth et al., Comput. Phys. Commun. 190, 33 (2015), for the strain derivative.
    """

    def __init__(self, energy: torch.nn.Module, do_derivatives: bool = True) -> None:
        super().__init__()
        self.energy = energy
        self.do_derivatives = do_derivatives

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with energies and their derivatives.

        In training mode the derivatives can be differentiated again, for a loss on them; in eval
        mode every output is detached.
        """
        if not self.do_derivatives:
            return self.energy(data)
        given = {key: data[key] for key in (POSITIONS_KEY, CELL_KEY) if key in data}
        with torch.enable_grad():
            positions, strain = self._strain_(data)
            data = self.energy(data)
            by_position, by_strain = torch.autograd.grad(
                [data[TOTAL_ENERGY_KEY].sum()],
                [positions, strain],
                create_graph=self.training,
            )
        data[FORCE_KEY] = -by_position
        data[VIRIAL_KEY] = -by_strain
        if CELL_KEY in given:
            cell = given[CELL_KEY].reshape(-1, 3, 3)
            volume = (cell[:, 0] * torch.linalg.cross(cell[:, 1], cell[:, 2])).sum(-1).abs()
            volume = volume.reshape(-1, 1, 1)
            filled = torch.where(volume > 0.0, volume, torch.ones_like(volume))
            data[STRESS_KEY] = by_strain / filled * (volume > 0.0).to(by_strain.dtype)
        data.update(given)
        if not self.training:
            data = {key: value.detach() for key, value in data.items()}
        return data

    @staticmethod
    def _strain_(data: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Strain positions and cell in place; return what to differentiate by."""
        positions = data[POSITIONS_KEY]
        if not positions.requires_grad:
            positions = positions.detach().requires_grad_(True)
        frames = data[NUM_NODES_KEY].shape[0] if BATCH_KEY in data else 1
        strain = positions.new_zeros((frames, 3, 3)).requires_grad_(True)
        symmetric = 0.5 * (strain + strain.transpose(-1, -2))
        if BATCH_KEY in data:
            by_atom = symmetric.index_select(0, data[BATCH_KEY])
            shift = torch.bmm(positions.unsqueeze(1), by_atom).squeeze(1)
        else:
            shift = positions @ symmetric[0]
        data[POSITIONS_KEY] = positions + shift
        if CELL_KEY in data:
            cell = data[CELL_KEY].reshape(-1, 3, 3)
            data[CELL_KEY] = cell + torch.bmm(cell, symmetric)
        return positions, strain
