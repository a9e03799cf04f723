"""Frames of a copper-gold alloy, labelled by the EMT potential of ASE.

A stand-in for quantum-chemistry data that anybody can make in seconds: energies (eV), forces
(eV/Å) and stress (eV/Å³, ASE's sign). Small fcc crystals of every composition are strained and
rattled, and some are snapshots of molecular dynamics at 300 K and 700 K.

Usage: python tools/demo/data.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.md.langevin import Langevin

SEED = 20_250_101
SPECIES = ("Cu", "Au")
LATTICE_CONSTANT = {"Cu": 3.60, "Au": 4.07}  # Å, of EMT's own crystals to 0.02
SUPERCELLS = ((2, 2, 1), (2, 2, 2))  # of the cubic cell of 4 atoms

NUM_DISTORTED = 220
NUM_TRAJECTORIES = 8
SNAPSHOTS_PER_TRAJECTORY = 10
TEMPERATURES = (300.0, 700.0)  # K
SPLIT = {"train": 220, "val": 30, "test": 50}


def alloy(rng: np.random.Generator, supercell: tuple[int, int, int]) -> Atoms:
    """Return an fcc crystal with random occupation, its lattice constant from Vegard's law."""
    atoms = bulk("Cu", "fcc", a=1.0, cubic=True).repeat(supercell)
    num_gold = int(rng.integers(0, len(atoms) + 1))
    symbols = np.array([SPECIES[1]] * num_gold + [SPECIES[0]] * (len(atoms) - num_gold))
    atoms.set_chemical_symbols(list(rng.permutation(symbols)))
    mean = np.mean([LATTICE_CONSTANT[symbol] for symbol in atoms.get_chemical_symbols()])
    atoms.set_cell(atoms.cell * mean, scale_atoms=True)
    return atoms


def distort(atoms: Atoms, rng: np.random.Generator) -> None:
    """Strain the cell by a few percent in every component, then move each atom a little."""
    strain = rng.uniform(-0.03, 0.03, size=(3, 3))
    deformation = np.eye(3) + 0.5 * (strain + strain.T)
    atoms.set_cell(atoms.cell @ deformation, scale_atoms=True)
    size = rng.uniform(0.02, 0.12)  # Å
    atoms.positions += rng.normal(scale=size, size=atoms.positions.shape)


def labelled(atoms: Atoms) -> Atoms:
    """Return a copy of `atoms` that carries EMT's energy, forces and stress."""
    copy = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=True)
    copy.calc = EMT()
    results = {
        "energy": copy.get_potential_energy(),
        "forces": copy.get_forces(),
        "stress": copy.get_stress(),
    }
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def thermalize(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Draw momenta from the Maxwell-Boltzmann distribution (K), with the center of mass at rest."""
    masses = atoms.get_masses()[:, None]
    momenta = rng.normal(size=(len(atoms), 3)) * np.sqrt(masses * units.kB * temperature)
    atoms.set_momenta(momenta - masses * momenta.sum(axis=0) / masses.sum())


def trajectory(atoms: Atoms, temperature: float, rng: np.random.Generator) -> list[Atoms]:
    """Return snapshots of Langevin dynamics of `atoms`, 100 fs apart."""
    atoms.calc = EMT()
    thermalize(atoms, 2 * temperature, rng)  # half of it becomes potential energy
    dynamics = Langevin(
        atoms,
        timestep=4 * units.fs,
        temperature_K=temperature,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=rng,
    )
    snapshots = []
    for _ in range(SNAPSHOTS_PER_TRAJECTORY):
        dynamics.run(25)
        snapshots.append(labelled(atoms))
    return snapshots


def make_frames() -> list[Atoms]:
    """Return the labelled frames in random order; the same on every call."""
    rng = np.random.default_rng(SEED)
    frames = []
    for index in range(NUM_DISTORTED):
        atoms = alloy(rng, SUPERCELLS[index % 4 == 0])
        distort(atoms, rng)
        frames.append(labelled(atoms))
    for index in range(NUM_TRAJECTORIES):
        atoms = alloy(rng, SUPERCELLS[0])
        frames += trajectory(atoms, TEMPERATURES[index % 2], rng)
    return [frames[index] for index in rng.permutation(len(frames))]


def write_data(folder: Path) -> dict[str, int]:
    """Write ``train.xyz``, ``val.xyz`` and ``test.xyz`` and return the number of frames of each."""
    frames = make_frames()
    if len(frames) != sum(SPLIT.values()):
        raise ValueError(f"{len(frames)} frames do not split into {SPLIT}")
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for name, number in SPLIT.items():
        write(folder / f"{name}.xyz", frames[start : start + number], format="extxyz")
        start += number
    return dict(SPLIT)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    print(write_data(Path(sys.argv[1])))
