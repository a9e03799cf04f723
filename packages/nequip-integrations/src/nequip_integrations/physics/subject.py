"""What is graded: a calculator, with what a report has to know of its model."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.data import chemical_symbols, covalent_radii
from ase.stress import voigt_6_to_full_3x3_stress

from nequip_core.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform

if TYPE_CHECKING:
    from nequip_integrations.ase import NequIPCalculator

__all__ = ["FORCE_SCALE", "Outcome", "Subject", "crystal", "outcome", "rattled", "subject_of"]

FORCE_SCALE = "of the largest force or 1 eV/Å"
"""Unit of deviations over `Outcome.scale`."""

_MOST_SPECIES = 4  # of a made-up crystal
_SHORTEST = 1.8  # Angstrom between neighbors of a made-up crystal, at least


@dataclass(frozen=True)
class Subject:
    """A calculator to grade."""

    calculator: Any
    """Any ASE calculator with energy and forces."""
    symbols: tuple[str, ...]
    """Species that the model knows."""
    cutoff: float
    """Cutoff radius, Angstrom."""
    model_dtype: str = "float64"
    pair_cutoffs: dict[tuple[str, str], float] = field(default_factory=dict)
    """Shorter cutoffs of (centre, neighbor), Angstrom."""

    @property
    def is_single(self) -> bool:
        """Whether the model computes in single precision."""
        return self.model_dtype != "float64"


@dataclass(frozen=True)
class Outcome:
    """What a calculator says of a structure, eV and Angstrom."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None
    """(3, 3); None without a volume."""

    @property
    def scale(self) -> float:
        """The largest force, at least 1 eV/Angstrom: what deviations are compared with."""
        return max(1.0, float(np.abs(self.forces).max()))


def outcome(subject: Subject, atoms: Atoms) -> Outcome:
    """Return what the calculator says of a structure, which stays as it is."""
    atoms = atoms.copy()
    atoms.calc = subject.calculator
    energy, forces = float(atoms.get_potential_energy()), np.array(atoms.get_forces())
    try:
        stress = voigt_6_to_full_3x3_stress(atoms.get_stress())
    except PropertyNotImplementedError:
        stress = None
    return Outcome(energy, forces, stress)


def subject_of(calculator: NequIPCalculator) -> Subject:
    """Return a calculator with what its transforms say of the model."""
    unit = calculator.length_units_to_A
    model: Any = calculator.model
    metadata = model.metadata
    symbols: list[str] = []
    types: dict[str, int] = {}
    cutoff, table = float(metadata["r_max"]), None
    for transform in calculator.transforms:
        if isinstance(transform, ChemicalSpeciesToAtomTypeMapper):
            found = transform.lookup_table.tolist()
            types = {chemical_symbols[z]: kind for z, kind in enumerate(found) if kind >= 0}
            symbols = list(types)
        elif isinstance(transform, NeighborListTransform):
            cutoff, table = transform.r_max, transform.cutoffs
    pairs = {}
    if table is not None:
        for first, second in product(symbols, repeat=2):
            pairs[first, second] = float(table[types[first], types[second]]) * unit
    return Subject(calculator, tuple(symbols), cutoff * unit, str(metadata["model_dtype"]), pairs)


def crystal(subject: Subject, cells: int = 2) -> Atoms:
    """Return a made-up crystal of the model's species, skewed so that it has no symmetry.

    Args:
        subject: decides species and distances.
        cells: cubic cells of four atoms along each axis.
    """
    symbols = subject.symbols[:_MOST_SPECIES]
    radius = float(np.mean([covalent_radii[chemical_symbols.index(one)] for one in symbols]))
    distance = max(2.2 * radius, _SHORTEST, subject.cutoff / 2.5)
    basis = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    grid = np.array(list(product(range(cells), repeat=3)), dtype=float)
    scaled = (grid[:, None] + basis).reshape(-1, 3) / cells
    skew = np.array([[1.0, 0.0, 0.0], [0.06, 1.02, 0.0], [-0.04, 0.05, 0.97]])
    generator = np.random.default_rng(0)
    names = [symbols[index % len(symbols)] for index in range(len(scaled))]
    return Atoms(
        generator.permutation(names),
        scaled_positions=scaled,
        cell=skew * distance * np.sqrt(2) * cells,
        pbc=True,
    )


def rattled(atoms: Atoms, amplitude: float = 0.05, seed: int = 0) -> Atoms:
    """Return a copy with every coordinate moved at random, by `amplitude` Angstrom on average."""
    moved = atoms.copy()
    moved.calc = None
    moved.set_constraint()
    generator = np.random.default_rng(seed)
    moved.positions += generator.normal(scale=amplitude, size=moved.positions.shape)
    return moved
