"""From features to energies: readout, scale and shift per type, sum over each frame."""

from __future__ import annotations

import torch

from nequip_core.fields import (
    ATOM_TYPE_KEY,
    BATCH_KEY,
    NODE_FEATURES_KEY,
    NUM_NODES_KEY,
    PER_ATOM_ENERGY_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_model.nn.mlp import ScalarMLP

__all__ = ["AtomicEnergyReadout", "PerTypeScaleShift", "TotalEnergy"]


class AtomicEnergyReadout(torch.nn.Module):
    """Add ``atomic_energy`` (N, 1), not yet scaled, from scalar features.

    Args:
        mlp: scalars (N, C) to (N, 1).
    """

    def __init__(self, mlp: ScalarMLP) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with ``atomic_energy``."""
        data[PER_ATOM_ENERGY_KEY] = self.mlp(data[NODE_FEATURES_KEY])
        return data


class PerTypeScaleShift(torch.nn.Module):
    """``atomic_energy`` <- shift[type] + scale[type] * ``atomic_energy``, in float64, energy.

    Args:
        scales: one number, one a type, or None for no scaling.
        shifts: one number, one a type, or None for no shift.
        scales_trainable: make the scales trainable.
        shifts_trainable: make the shifts trainable.
    """

    def __init__(
        self,
        scales: list[float] | None,
        shifts: list[float] | None,
        scales_trainable: bool = False,
        shifts_trainable: bool = False,
    ) -> None:
        super().__init__()
        self.scales: torch.Tensor
        self.shifts: torch.Tensor
        for name, values, trainable in (
            ("scales", scales, scales_trainable),
            ("shifts", shifts, shifts_trainable),
        ):
            table = torch.tensor(values or [], dtype=torch.float64).unsqueeze(-1)
            if trainable and values is not None:
                self.register_parameter(name, torch.nn.Parameter(table))
            else:
                self.register_buffer(name, table)

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with scaled and shifted ``atomic_energy`` in float64."""
        energy = data[PER_ATOM_ENERGY_KEY].to(torch.float64)
        types = data[ATOM_TYPE_KEY]
        if self.scales.shape[0]:
            energy = energy * _per_atom(self.scales, types)
        if self.shifts.shape[0]:
            energy = energy + _per_atom(self.shifts, types)
        data[PER_ATOM_ENERGY_KEY] = energy
        return data


def _per_atom(table: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
    """Return the rows of a per-type table (T, 1) by atom, or the one row of (1, 1)."""
    return table.index_select(0, types) if table.shape[0] > 1 else table


class TotalEnergy(torch.nn.Module):
    """Add ``total_energy`` (F, 1), the sum of each frame's ``atomic_energy``."""

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with ``total_energy``."""
        energy = data[PER_ATOM_ENERGY_KEY]
        if BATCH_KEY in data:
            frames = data[NUM_NODES_KEY].shape[0]
            data[TOTAL_ENERGY_KEY] = energy.new_zeros((frames, 1)).index_add(
                0, data[BATCH_KEY], energy
            )
        else:
            data[TOTAL_ENERGY_KEY] = energy.sum(dim=0, keepdim=True)
        return data
