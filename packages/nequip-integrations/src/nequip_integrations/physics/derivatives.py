"""Forces and stress against finite differences of the energy; whether forces have a potential."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms

from nequip_integrations.physics.lines import Line, Panel
from nequip_integrations.physics.subject import FORCE_SCALE, Subject, outcome

__all__ = ["force_line", "jacobian_line", "stress_line"]

# Fourth-order central differences: f'(0) = sum of weight * f(place * step) / step.
_PLACES = (-2, -1, 1, 2)
_WEIGHTS = (1 / 12, -8 / 12, 8 / 12, -1 / 12)
_MOST_ATOMS = 6


def _step(subject: Subject) -> float:
    return 0.03 if subject.is_single else 0.01  # Angstrom


def _derivative(function: Callable[[float], np.ndarray | float], step: float) -> np.ndarray:
    values = [
        weight * np.asarray(function(place * step))
        for place, weight in zip(_PLACES, _WEIGHTS, strict=True)
    ]
    return np.sum(values, axis=0) / step


def _chosen(atoms: Atoms) -> np.ndarray:
    generator = np.random.default_rng(1)
    return np.sort(generator.permutation(len(atoms))[:_MOST_ATOMS])


def _noise(subject: Subject, atoms: Atoms) -> tuple[float, float]:
    """Return how far rounding changes an energy (eV) and a force (eV/Angstrom).

    Second differences over a step so small that nothing but rounding is left of them.
    """
    generator = np.random.default_rng(2)
    here = outcome(subject, atoms)
    energies, forces = [0.0], [0.0]
    for _ in range(3):
        shift = generator.normal(scale=1e-7, size=atoms.positions.shape)
        sides = []
        for sign in (-1, 1):
            moved = atoms.copy()
            moved.positions += sign * shift
            sides.append(outcome(subject, moved))
        energies.append(abs(sides[0].energy + sides[1].energy - 2 * here.energy))
        forces.append(float(np.abs(sides[0].forces + sides[1].forces - 2 * here.forces).max()))
    return max(energies), max(forces)


def force_line(subject: Subject, atoms: Atoms) -> Line:
    """Return the line on forces against finite differences of the energy."""
    step, found = _step(subject), outcome(subject, atoms)

    def energy(atom: int, axis: int, shift: float) -> float:
        moved = atoms.copy()
        moved.positions[atom, axis] += shift
        return outcome(subject, moved).energy

    chosen = _chosen(atoms)
    wanted = np.array(
        [
            [
                -_derivative(lambda shift, a=atom, x=axis: energy(a, x, shift), step)  # type: ignore[misc]
                for axis in range(3)
            ]
            for atom in chosen
        ]
    )
    given = found.forces[chosen]
    noise = 3 * _noise(subject, atoms)[0] / step
    base = 1e-3 if subject.is_single else 1e-6
    limits = np.array([wanted.min(), wanted.max()])
    return Line(
        "forces",
        "Forces are the negative gradient of the energy.",
        float(np.abs(given - wanted).max()) / found.scale,
        base + noise / found.scale,
        FORCE_SCALE,
        f"{3 * len(chosen)} components against fourth-order differences of the energy, step "
        f"{step} Å; rounding changes these by up to {noise:.1e} eV/Å. Largest force "
        f"{np.abs(found.forces).max():.3g} eV/Å.",
        [
            Panel(
                "forces",
                "finite difference (eV/Å)",
                "force (eV/Å)",
                {"": (limits, limits), "components": (wanted.ravel(), given.ravel())},
            )
        ],
    )


def stress_line(subject: Subject, atoms: Atoms) -> Line | None:
    """Return the line on stress against finite differences; None where there is no stress."""
    found = outcome(subject, atoms)
    if found.stress is None:
        return None
    step, volume = _step(subject) / 10, atoms.get_volume()

    def energy(row: int, column: int, size: float) -> float:
        strain = np.eye(3)
        strain[row, column] += size / 2
        strain[column, row] += size / 2
        moved = atoms.copy()
        moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        return outcome(subject, moved).energy

    wanted = np.zeros((3, 3))
    for row in range(3):
        for column in range(row, 3):
            slope = _derivative(lambda size, r=row, c=column: energy(r, c, size), step)  # type: ignore[misc]
            wanted[row, column] = wanted[column, row] = slope / volume
    noise = 3 * _noise(subject, atoms)[0] / step / volume
    scale = max(float(np.abs(wanted).max()), 1e-2)
    return Line(
        "stress",
        "Stress is the gradient of the energy with respect to strain, over the volume.",
        float(np.abs(found.stress - wanted).max()) / scale,
        (1e-3 if subject.is_single else 1e-6) + noise / scale,
        "of the largest component",
        f"Six strains, fourth-order differences of the energy, step {step:g}. Largest component "
        f"{np.abs(wanted).max():.3g} eV/Å³.",
    )


def jacobian_line(subject: Subject, atoms: Atoms) -> Line:
    """Return the line on the symmetry of the derivatives of forces."""
    step, chosen = _step(subject), _chosen(atoms)

    def forces(atom: int, axis: int, shift: float) -> np.ndarray:
        moved = atoms.copy()
        moved.positions[atom, axis] += shift
        return outcome(subject, moved).forces[chosen].ravel()

    jacobian = np.stack(
        [
            _derivative(lambda shift, a=atom, x=axis: forces(a, x, shift), step)  # type: ignore[misc]
            for atom in chosen
            for axis in range(3)
        ]
    )
    largest = max(float(np.abs(jacobian).max()), 1e-2)
    noise = 3 * _noise(subject, atoms)[1] / step
    return Line(
        "Jacobian",
        "Forces have a potential: dF_i/dx_j = dF_j/dx_i.",
        float(np.abs(jacobian - jacobian.T).max()) / largest,
        (1e-2 if subject.is_single else 1e-5) + noise / largest,
        "of the largest element",
        f"A block of {len(jacobian)} coordinates, fourth-order differences of forces, step {step} "
        f"Å. Largest element {np.abs(jacobian).max():.3g} eV/Å².",
    )
