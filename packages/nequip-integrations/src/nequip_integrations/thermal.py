"""Velocities of a temperature."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units

__all__ = ["set_thermal_momenta"]


def set_thermal_momenta(atoms: Atoms, temperature: float, generator: np.random.Generator) -> None:
    """Draw momenta of the Maxwell-Boltzmann distribution, then stop the drift of the whole.

    ASE's own function for this has another name from version to version.

    Args:
        atoms: is changed.
        temperature: K.
        generator: of random numbers.
    """
    masses = atoms.get_masses()[:, None]
    momenta = generator.normal(size=(len(atoms), 3)) * np.sqrt(masses * units.kB * temperature)
    if len(atoms) > 1:
        momenta -= masses * momenta.sum(axis=0) / masses.sum()
    atoms.set_momenta(momenta)
