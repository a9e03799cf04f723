"""Rotation, inversion, translation and permutation."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from nequip_integrations.physics.lines import Line
from nequip_integrations.physics.subject import FORCE_SCALE, Outcome, Subject, outcome

__all__ = ["inversion_line", "net_force_line", "permutation_line", "rotation_line"]
__all__ += ["translation_line"]

_ROTATIONS = 4


def _bound(subject: Subject) -> float:
    return 1e-4 if subject.is_single else 1e-8


def _deviation(found: Outcome, wanted: Outcome) -> float:
    """Return the largest deviation, in eV/atom, eV/Angstrom and eV/Angstrom^3, over the scale."""
    values = [
        abs(found.energy - wanted.energy) / len(wanted.forces),
        float(np.abs(found.forces - wanted.forces).max()),
    ]
    if found.stress is not None and wanted.stress is not None:
        values.append(float(np.abs(found.stress - wanted.stress).max()))
    return float(np.max(values)) / wanted.scale  # not max(), which may drop NaN


def _turned(found: Outcome, matrix: np.ndarray) -> Outcome:
    stress = None if found.stress is None else matrix.T @ found.stress @ matrix
    return Outcome(found.energy, found.forces @ matrix, stress)


def _line(subject: Subject, name: str, claim: str, value: float, detail: str) -> Line:
    return Line(name, claim, value, _bound(subject), FORCE_SCALE, detail)


def _against(subject: Subject, atoms: Atoms, matrices: list[np.ndarray]) -> float:
    first, values = outcome(subject, atoms), []
    for matrix in matrices:
        moved = atoms.copy()
        moved.set_cell(atoms.cell.array @ matrix)
        moved.positions = atoms.positions @ matrix
        values.append(_deviation(outcome(subject, moved), _turned(first, matrix)))
    return float(np.max(values))


def rotation_line(subject: Subject, atoms: Atoms) -> Line:
    """Return the line on proper rotations."""
    generator = np.random.default_rng(3)
    matrices = []
    for _ in range(_ROTATIONS):
        matrix = np.linalg.qr(generator.normal(size=(3, 3)))[0]
        matrices.append(matrix * np.sign(np.linalg.det(matrix)))
    return _line(
        subject,
        "rotation",
        "A rotated structure has the same energy, and rotated forces and stress.",
        _against(subject, atoms, matrices),
        f"{_ROTATIONS} random rotations of atoms and cell.",
    )


def inversion_line(subject: Subject, atoms: Atoms) -> Line:
    """Return the line on the inversion."""
    return _line(
        subject,
        "inversion",
        "The mirror image of a structure has the same energy, and forces of opposite sign.",
        _against(subject, atoms, [-np.eye(3)]),
        "Atoms and cell inverted through the origin.",
    )


def translation_line(subject: Subject, atoms: Atoms) -> Line:
    """Return the line on translations, of everything and of atoms into other cells."""
    generator = np.random.default_rng(4)
    first = outcome(subject, atoms)
    moved = atoms.copy()
    moved.positions += generator.normal(scale=10.0, size=3)
    whole = generator.integers(-2, 3, size=(len(atoms), 3)) * atoms.pbc
    moved.positions += whole @ atoms.cell.array
    return _line(
        subject,
        "translation",
        "Neither a translation nor the choice of periodic images changes anything.",
        _deviation(outcome(subject, moved), first),
        "All atoms moved by one vector, and each by cell vectors of its own.",
    )


def permutation_line(subject: Subject, atoms: Atoms) -> Line:
    """Return the line on the order of atoms."""
    order = np.random.default_rng(5).permutation(len(atoms))
    first = outcome(subject, atoms)
    return _line(
        subject,
        "permutation",
        "The order of the atoms does not matter.",
        _deviation(
            outcome(subject, atoms[order]), Outcome(first.energy, first.forces[order], first.stress)
        ),
        "All atoms in a random order.",
    )


def net_force_line(subject: Subject, atoms: Atoms) -> Line:
    """Return the line on the sum of all forces."""
    found = outcome(subject, atoms)
    return _line(
        subject,
        "net force",
        "The forces of a structure sum up to zero.",
        float(np.abs(found.forces.sum(axis=0)).max()) / found.scale,
        "Largest component of the sum.",
    )
