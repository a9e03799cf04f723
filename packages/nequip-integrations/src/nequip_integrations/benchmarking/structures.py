"""Structures of given sizes, made of a smaller one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

__all__ = ["repeated"]

_RATTLE = 0.03  # Angstrom


def repeated(atoms: Atoms, sizes: Sequence[int]) -> list[Atoms]:
    """Return structures with about as many atoms as asked for, each of another size.

    A periodic structure is repeated along its shortest cell vector until it is large enough; one
    without periods is put side by side on a grid, in a cell that keeps the copies apart.

    Args:
        atoms: at least one atom.
        sizes: numbers of atoms, which are reached or exceeded.
    """
    unit = atoms.copy()
    if not unit.pbc.all():
        width = np.ptp(unit.positions, axis=0) + 3.0  # about the distance of molecules, Angstrom
        unit.set_cell(np.diag(width))
        unit.pbc = True
    generator = np.random.default_rng(0)
    found: list[Atoms] = []
    for size in sorted(set(sizes)):
        repeats = np.ones(3, dtype=int)
        while len(unit) * repeats.prod() < size:
            repeats[np.argmin(unit.cell.lengths() * repeats)] += 1
        made = unit.repeat(repeats.tolist())
        made.set_constraint()
        made.positions += generator.normal(scale=_RATTLE, size=made.positions.shape)
        if not found or len(made) > len(found[-1]):
            found.append(made)
    return found
