"""Energy against volume."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms, units
from ase.eos import EquationOfState

from nequip_core.errors import ConfigError, DataError
from nequip_integrations import drawing
from nequip_integrations.dynamics.relaxation import relaxed

__all__ = ["equation_of_state", "figure"]


def equation_of_state(
    atoms: Atoms, strain: float, points: int, fmax: float, steps: int
) -> dict[str, Any]:
    """Return volume, energy and bulk modulus at the minimum of a Birch-Murnaghan fit.

    The cell keeps its shape; atoms are relaxed at each volume.

    Args:
        atoms: a structure with a calculator.
        strain: of each length, up to which it is compressed and stretched.
        points: number of volumes, at least five.
        fmax: largest force of a relaxed structure, eV/Angstrom.
        steps: of a relaxation, at most.

    Raises:
        ConfigError: the structure is not periodic.
        DataError: the energy has no minimum among these volumes.
    """
    if not atoms.pbc.all():
        raise ConfigError("an equation of state needs a structure periodic in three directions")
    volumes, energies = [], []
    for scale in np.linspace(1 - strain, 1 + strain, points):
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell * scale, scale_atoms=True)
        scaled.calc = atoms.calc
        found, _ = relaxed(scaled, fmax, steps)
        volumes.append(found.get_volume())
        energies.append(found.get_potential_energy())
    lowest = int(np.argmin(energies))
    if lowest in (0, points - 1):
        side = "smaller" if lowest == 0 else "larger"
        raise DataError(
            f"the energy falls to the end of the volumes, {volumes[lowest] / len(atoms):.4g} "
            f"Å³/atom: relax the cell first (task relax --cell), or start from a {side} one"
        )
    fit = EquationOfState(volumes, energies, eos="birchmurnaghan")
    volume, energy, modulus = fit.fit()
    count = len(atoms)
    return {
        "volume_A3_per_atom": float(volume) / count,
        "energy_eV_per_atom": float(energy) / count,
        "bulk_modulus_GPa": float(modulus / units.GPa),
        "volumes_A3_per_atom": [float(one) / count for one in volumes],
        "energies_eV_per_atom": [float(one) / count for one in energies],
    }


def figure(found: dict[str, Any]) -> bytes:
    """Return a PNG of the points."""
    drawn, (axis,) = drawing.grid(1, width=4.6)
    axis.plot(
        found["volumes_A3_per_atom"], found["energies_eV_per_atom"], "o-", color=drawing.COLORS[0]
    )
    axis.axvline(found["volume_A3_per_atom"], color=drawing.GREY, linewidth=0.8)
    drawing.style(axis, "equation of state", "volume (Å³/atom)", "energy (eV/atom)")
    return drawing.png(drawn)
