"""From features to energies: readout, scale and shift per type, sum over each frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

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
from nequip_model.nn.modifier import model_modifier

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
            self._register(name, table, trainable and values is not None)

    def _register(self, name: str, table: torch.Tensor, trainable: bool) -> None:
        """Set a table as a parameter or as a buffer, whichever it was before."""
        if hasattr(self, name):
            delattr(self, name)
        if trainable:
            self.register_parameter(name, torch.nn.Parameter(table))
        else:
            self.register_buffer(name, table)

    @model_modifier(persistent=True)
    @classmethod
    def modify_PerTypeScaleShift(  # noqa: N802 - documented name
        cls,
        model: torch.nn.Module,
        scales: float | dict[str, float] | None = None,
        shifts: float | dict[str, float] | None = None,
        scales_trainable: bool = False,
        shifts_trainable: bool = False,
    ) -> torch.nn.Module:
        """Set scales and shifts of types; those that are not given keep their values.

        Afterwards there is one scale and one shift a type.

        Args:
            model: knows its ``type_names``.
            scales: one number for all types, or a number for some of them.
            shifts: likewise, energy.
            scales_trainable: make the scales trainable.
            shifts_trainable: make the shifts trainable.

        Raises:
            ValueError: a type is not one of the model's, or a value is not a finite number.
        """
        known: Any = [module for module in model.modules() if hasattr(module, "type_names")]
        if not known:
            raise ValueError("the model does not know its type_names")
        names = list(known[0].type_names)
        tables = (("scales", scales, scales_trainable), ("shifts", shifts, shifts_trainable))
        for name, values, _ in tables:
            _check_values(name, values, names)
        for module in model.modules():
            if isinstance(module, cls):
                for name, values, trainable in tables:
                    old = getattr(module, name).detach()
                    table = _changed(old, 1.0 if name == "scales" else 0.0, values, names)
                    module._register(name, table, trainable)
        return model

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


def _check_values(name: str, values: Any, type_names: list[str]) -> None:
    """Raise a ValueError unless `values` is a finite number, or a mapping of types to such."""
    given = values if isinstance(values, Mapping) else {} if values is None else {"": values}
    for type_name, value in given.items():
        if isinstance(values, Mapping) and type_name not in type_names:
            raise ValueError(
                f"{name} names the type {type_name!r}, the model has the types {type_names}"
            )
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise ValueError(
                f"{name} must be a finite number, or a mapping from type name to number, got "
                f"{values!r}"
            )


def _changed(old: torch.Tensor, default: float, values: Any, names: list[str]) -> torch.Tensor:
    """Return the table (T, 1) of `old`, a table of 0, 1 or T rows, with the given values."""
    table = old.new_full((len(names), 1), default)
    if old.shape[0]:
        table.copy_(old)
    for type_name, value in (
        values if isinstance(values, Mapping) else dict.fromkeys(names, values)
    ).items():
        if value is not None:
            table[names.index(type_name)] = float(value)
    return table
