"""ASE structures to frames, and outputs of a model to results in ASE's units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress

from nequip_core.errors import DataError
from nequip_core.fields import (
    ATOMIC_NUMBERS_KEY,
    CELL_KEY,
    FORCE_KEY,
    PBC_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_core.frames import Frame, from_dict
from nequip_integrations.adapter import require_finite

if TYPE_CHECKING:
    from ase import Atoms

    from nequip_integrations.adapter import ModelAdapter

__all__ = ["ase_results", "input_frame"]


def input_frame(adapter: ModelAdapter, atoms: Atoms) -> Frame:
    """Return the geometry and species of a structure, in the model's unit of length.

    Raises:
        DataError: there are no atoms, or positions or cell are not finite.
    """
    if len(atoms) == 0:
        raise DataError("the structure has no atoms")
    unit = adapter.length_units_to_A
    return from_dict(
        {
            POSITIONS_KEY: atoms.get_positions() / unit,
            CELL_KEY: np.asarray(atoms.cell) / unit,
            PBC_KEY: atoms.get_pbc(),
            ATOMIC_NUMBERS_KEY: atoms.get_atomic_numbers(),
        }
    )


def ase_results(adapter: ModelAdapter, out: Frame, has_volume: bool) -> dict[str, Any]:
    """Return the results of one structure as ASE wants them, see `ase.NequIPCalculator`.

    Args:
        adapter: says what the units of the model are.
        out: the model's output for the structure.
        has_volume: whether its cell has a volume, without which there is no stress.

    Raises:
        DataError: an output is not finite.
    """
    energy, length = adapter.energy_units_to_eV, adapter.length_units_to_A
    names = [TOTAL_ENERGY_KEY, PER_ATOM_ENERGY_KEY, FORCE_KEY]
    if has_volume:
        names.append(STRESS_KEY)
    arrays = {key: out[key].detach().cpu().numpy() for key in names if key in out}
    for key, array in arrays.items():
        require_finite(key, array)
    total = float(arrays[TOTAL_ENERGY_KEY].reshape(-1)[0]) * energy
    results: dict[str, Any] = {"energy": total, "free_energy": total}
    if PER_ATOM_ENERGY_KEY in arrays:
        results["energies"] = arrays[PER_ATOM_ENERGY_KEY].reshape(-1) * energy
    if FORCE_KEY in arrays:
        results["forces"] = arrays[FORCE_KEY] * (energy / length)
    if STRESS_KEY in arrays:
        stress = arrays[STRESS_KEY].reshape(3, 3) * (energy / length**3)
        results["stress"] = full_3x3_to_voigt_6_stress(stress)
    return results
