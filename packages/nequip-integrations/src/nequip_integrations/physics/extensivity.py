"""Energies of parts that do not see each other add up."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from nequip_integrations.physics.lines import Line
from nequip_integrations.physics.subject import FORCE_SCALE, Subject, outcome

__all__ = ["copies_line", "supercell_line"]

_MOST_ATOMS = 16  # of a cluster
_MOST_REPEATED = 400  # atoms of a supercell


def _bound(subject: Subject) -> float:
    return 1e-4 if subject.is_single else 1e-8


def supercell_line(subject: Subject, atoms: Atoms) -> Line | None:
    """Return the line on supercells; None for a structure without periods, or a large one."""
    if not atoms.pbc.any() or 2 * len(atoms) > _MOST_REPEATED:
        return None
    axis = int(np.flatnonzero(atoms.pbc)[0])
    repeats = [2 if index == axis else 1 for index in range(3)]
    one, two = outcome(subject, atoms), outcome(subject, atoms.repeat(repeats))
    values = [
        abs(two.energy - 2 * one.energy) / len(two.forces),
        float(np.abs(two.forces - np.tile(one.forces, (2, 1))).max()),
    ]
    return Line(
        "supercell",
        "A structure twice as large has twice the energy and the same forces.",
        float(np.max(values)) / one.scale,
        _bound(subject),
        FORCE_SCALE,
        f"{len(atoms)} and {2 * len(atoms)} atoms.",
    )


def copies_line(subject: Subject, atoms: Atoms) -> Line:
    """Return the line on two clusters too far from each other to interact."""
    distances = np.linalg.norm(atoms.positions - atoms.positions.mean(axis=0), axis=1)
    near = np.sort(np.argsort(distances)[:_MOST_ATOMS])
    cluster = Atoms(atoms.numbers[near], positions=atoms.positions[near])
    other = cluster[::-1]
    width = float(np.ptp(cluster.positions[:, 0]))
    other.positions[:, 0] += width + 1.5 * subject.cutoff
    one, both = outcome(subject, cluster), outcome(subject, cluster + other)
    wanted = np.concatenate([one.forces, one.forces[::-1]])
    values = [
        abs(both.energy - 2 * one.energy) / len(wanted),
        float(np.abs(both.forces - wanted).max()),
    ]
    return Line(
        "separated copies",
        "Two clusters far from each other have the sum of their energies, and their own forces.",
        float(np.max(values)) / one.scale,
        _bound(subject),
        FORCE_SCALE,
        f"Two clusters of {len(cluster)} atoms, {1.5 * subject.cutoff:.3g} Å apart.",
    )
