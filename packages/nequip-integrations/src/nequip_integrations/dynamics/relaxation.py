"""Relaxed structures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms, units
from ase.optimize import BFGS, FIRE

from nequip_core.errors import ConfigError

__all__ = ["largest_force", "relaxed"]

_MOST_ATOMS = 200


def relaxed(
    atoms: Atoms,
    fmax: float,
    steps: int,
    cell: bool = False,
    pressure: float = 0.0,
    report: Callable[[Atoms, int], None] | None = None,
) -> tuple[Atoms, bool]:
    """Return a relaxed copy of a structure, and whether its forces are as small as asked for.

    Args:
        atoms: a structure with a calculator; stays as it is.
        fmax: largest force, eV/Angstrom; with a cell that includes its generalized forces.
        steps: at most.
        cell: whether the cell is relaxed, too.
        pressure: on the cell, GPa.
        report: called with the structure and its number, from the start to the end.

    Raises:
        ConfigError: the cell shall be relaxed and there is none.
        NequIPError: the model fails.
    """
    moving = atoms.copy()
    moving.calc = atoms.calc
    target = moving
    if cell:
        if not moving.pbc.all():
            raise ConfigError(
                "relaxing the cell needs a structure that is periodic in three directions, pbc is "
                f"{moving.pbc.tolist()}"
            )
        from ase.filters import FrechetCellFilter

        target = FrechetCellFilter(moving, scalar_pressure=pressure * units.GPa)
    # Both go downhill only. The matrix of the first grows with the square of the size.
    optimizer = (BFGS if len(atoms) <= _MOST_ATOMS else FIRE)(target, logfile=None)
    if report is not None:
        optimizer.attach(lambda: report(moving, optimizer.nsteps))
    converged = bool(optimizer.run(fmax=fmax, steps=steps))
    return moving, converged


def largest_force(atoms: Atoms) -> float:
    """Return the length of the largest force, eV/Angstrom."""
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())
