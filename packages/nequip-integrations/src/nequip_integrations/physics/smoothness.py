"""Dimers from short distances to beyond the cutoff: no jump of energy or force, nothing beyond."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from nequip_integrations.physics.lines import Line, Panel
from nequip_integrations.physics.subject import Subject, outcome

__all__ = ["dimer_lines"]

_MOST_PAIRS = 6
_SPACING = 0.05  # Angstrom between distances
_HALVINGS = 18
_SUSPECTS = 3  # intervals of a curve that are searched for a jump, besides those of the cutoffs
_BEYOND = 0.5  # Angstrom after the cutoff


class _Dimer:
    """Energy and force of two atoms against their distance."""

    def __init__(self, subject: Subject, first: str, second: str) -> None:
        self._subject = subject
        self.name = f"{first}-{second}"
        self._atoms = Atoms([first, second], positions=np.zeros((2, 3)))
        self._known: dict[float, np.ndarray] = {}
        radii = [covalent_radii[chemical_symbols.index(one)] for one in (first, second)]
        self.start = 0.6 * float(sum(radii))
        named = (subject.pair_cutoffs.get(pair) for pair in ((first, second), (second, first)))
        self.cutoffs = sorted({cutoff for cutoff in named if cutoff} or {subject.cutoff})

    def __call__(self, distance: float) -> np.ndarray:
        """Return energy (eV) and force (eV/Angstrom) that pushes the atoms apart."""
        if distance not in self._known:
            self._atoms.positions[1, 2] = distance
            found = outcome(self._subject, self._atoms)
            self._known[distance] = np.array([found.energy, found.forces[1, 2]])
        return self._known[distance]


def dimer_lines(subject: Subject, symbols: list[str]) -> list[Line]:
    """Return the lines on the smoothness of dimers, and on what is beyond the cutoff."""
    pairs = list(combinations_with_replacement(symbols, 2))[:_MOST_PAIRS]
    jumps, beyond, energies, forces = [], [], {}, {}
    for first, second in pairs:
        dimer = _Dimer(subject, first, second)
        distances = np.arange(dimer.start, dimer.cutoffs[-1] + _BEYOND, _SPACING)
        values = np.array([dimer(float(distance)) for distance in distances])
        free = values[-1, 0]
        energies[dimer.name] = (distances, values[:, 0] - free)
        forces[dimer.name] = (distances, values[:, 1])
        jumps.append((_largest_jump(dimer, distances, values), dimer.name))
        after = distances > dimer.cutoffs[-1] + 1e-6
        ends = np.array([abs(values[after, 0] - free).max(), abs(values[after, 1]).max()])
        beyond.append((float(np.max(ends)), dimer.name))
    worst, where = max(jumps, key=lambda one: np.nan_to_num(one[0], nan=np.inf))
    left, left_where = max(beyond, key=lambda one: np.nan_to_num(one[0], nan=np.inf))
    shown = np.concatenate([force for _, force in forces.values()])
    reach = float(np.quantile(np.abs(shown), 0.9)) * 2 or 1.0
    depth = np.concatenate([energy for _, energy in energies.values()])
    height = float(np.quantile(np.abs(depth), 0.9)) * 2 or 1.0
    panels = [
        Panel("energy of dimers", "distance (Å)", "energy (eV)", energies,
              y_range=(max(-height, float(depth.min()) * 1.1), height)),
        Panel("force of dimers", "distance (Å)", "force (eV/Å)", forces, y_range=(-reach, reach)),
    ]  # fmt: skip
    tested = ", ".join(energies)
    return [
        Line(
            "dimers",
            "Energy and forces of two atoms are continuous, through the cutoff too.",
            worst,
            1e-2 if subject.is_single else 1e-4,
            "eV or eV/Å",
            f"Largest jump within {_SPACING / 2**_HALVINGS:.0e} Å of {tested}, at {where}.",
            panels,
        ),
        Line(
            "beyond the cutoff",
            "Two atoms further apart than the cutoff do not see each other.",
            left,
            1e-4 if subject.is_single else 1e-10,
            "eV or eV/Å",
            f"Largest force, and change of the energy, up to {_BEYOND} Å beyond; at {left_where}.",
        ),
    ]


def _largest_jump(dimer: _Dimer, distances: np.ndarray, values: np.ndarray) -> float:
    """Return the largest jump of energy or force.

    The intervals of the cutoffs, and those where a curve is least like a smooth one, are halved
    towards what is odd: of a smooth curve next to nothing is left, a jump stays.
    """
    jumps = [0.0]
    around = [int(np.searchsorted(distances, cutoff)) - 1 for cutoff in dimer.cutoffs]
    for column, oddness in enumerate((_odd_energies(values), _odd_forces(values))):
        for index in {*around, *np.argsort(oddness)[-_SUSPECTS:].tolist()}:
            if 0 <= index < len(distances) - 1:
                pair = (float(distances[index]), float(distances[index + 1]))
                jumps.append(_jump(dimer, *pair, column))
    return float(np.max(jumps))


def _odd_energies(values: np.ndarray) -> np.ndarray:
    """Return how far the change of energy in each interval is from what the forces make of it.

    The integral of the force by the trapezoidal rule with the correction of its ends.
    """
    energy, force = values.T
    slope = np.gradient(force, _SPACING)
    integral = _SPACING / 2 * (force[:-1] + force[1:]) + _SPACING**2 / 12 * (slope[:-1] - slope[1:])
    return np.nan_to_num(np.abs(np.diff(energy) + integral), nan=np.inf)


def _odd_forces(values: np.ndarray) -> np.ndarray:
    """Return how far the change of force in each interval is from those beside it."""
    steps = np.pad(np.diff(values[:, 1]), 1, mode="reflect", reflect_type="odd")
    odd = np.abs(steps[1:-1] - (steps[:-2] + steps[2:]) / 2)
    # Against the neighborhood: a steep wall bends everywhere.
    smooth = np.convolve(odd, np.ones(9) / 9, mode="same") + 1e-9
    return np.nan_to_num(odd / smooth, nan=np.inf)


def _jump(dimer: _Dimer, low: float, high: float, column: int) -> float:
    """Return what is left of the change between two distances after halving them.

    Each time the half stays that is further from the change of a smooth curve.
    """
    width = high - low
    outside = dimer(low) - dimer(low - width) + dimer(high + width) - dimer(high)
    slope = outside[1] / (2 * width)

    def oddness(start: float, stop: float) -> float:
        change = dimer(stop)[column] - dimer(start)[column]
        if column == 1:
            return abs(change - slope * (stop - start))
        return abs(change + (stop - start) / 2 * (dimer(start)[1] + dimer(stop)[1]))

    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if oddness(low, middle) >= oddness(middle, high):
            high = middle
        else:
            low = middle
    return float(abs(dimer(high)[column] - dimer(low)[column]))
