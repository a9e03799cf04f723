"""Constant-energy molecular dynamics with the compiled model, and how well it conserves energy."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.md.verlet import VelocityVerlet
from data import SEED, thermalize

LATTICE_CONSTANT = 3.93  # Å, of the ordered alloy CuAu
SUPERCELL = (2, 2, 2)
TEMPERATURE = 300.0  # K, after half of the initial kinetic energy has become potential energy
TIME_STEP = 2.5  # fs
PICOSECONDS = 5.0
SAMPLE_EVERY = 4  # steps
DRIFT_LIMIT = 1.0  # meV/atom


@dataclass(frozen=True)
class Trajectory:
    """What was recorded along a run, one row a sample."""

    time: np.ndarray  # ps
    potential: np.ndarray  # eV/atom
    kinetic: np.ndarray  # eV/atom

    @property
    def total(self) -> np.ndarray:
        """Total energy relative to its start, meV/atom."""
        energy = self.potential + self.kinetic
        return 1000 * (energy - energy[0])

    @property
    def temperature(self) -> np.ndarray:
        """Temperature, K."""
        return self.kinetic / (1.5 * units.kB)

    @property
    def drift(self) -> float:
        """Change of the fitted straight line through the total energy, meV/atom over the run."""
        slope = np.polyfit(self.time, self.total, 1)[0]
        return float(slope * (self.time[-1] - self.time[0]))

    @property
    def largest_deviation(self) -> float:
        """Largest distance of the total energy from its start, meV/atom."""
        return float(np.abs(self.total).max())


def ordered_alloy() -> Atoms:
    """Return CuAu in layers, 32 atoms, at rest in its ideal positions."""
    atoms = bulk("Cu", "fcc", a=LATTICE_CONSTANT, cubic=True).repeat(SUPERCELL)
    upper = np.isclose(np.round(atoms.get_scaled_positions()[:, 2] * 4) % 2, 1)
    atoms.set_chemical_symbols(["Au" if is_upper else "Cu" for is_upper in upper])
    return atoms


def run_nve(calculator: Calculator) -> Trajectory:
    """Run velocity Verlet from a thermalized crystal and return what it did."""
    atoms = ordered_alloy()
    thermalize(atoms, 2 * TEMPERATURE, np.random.default_rng(SEED))
    # So few momenta scatter by tens of kelvin.
    atoms.set_momenta(atoms.get_momenta() * (2 * TEMPERATURE / atoms.get_temperature()) ** 0.5)
    atoms.calc = calculator
    rows: list[tuple[float, float, float]] = []

    def record() -> None:
        rows.append(
            (
                dynamics.get_time() / (1000 * units.fs),
                atoms.get_potential_energy() / len(atoms),
                atoms.get_kinetic_energy() / len(atoms),
            )
        )

    dynamics = VelocityVerlet(atoms, timestep=TIME_STEP * units.fs)
    dynamics.attach(record, interval=SAMPLE_EVERY)
    dynamics.run(round(1000 * PICOSECONDS / TIME_STEP))
    return Trajectory(*np.array(rows).T)


def write_trajectory(trajectory: Trajectory, file: Path) -> None:
    """Write the samples of `trajectory` as CSV."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["time_ps", "potential_ev_per_atom", "kinetic_ev_per_atom"])
        columns = (trajectory.time, trajectory.potential, trajectory.kinetic)
        writer.writerows([f"{value:.9g}" for value in row] for row in zip(*columns, strict=True))


def check_drift(trajectory: Trajectory) -> None:
    """Check that the run conserved energy.

    Raises:
        RuntimeError: the drift or the largest deviation exceeds `DRIFT_LIMIT`.
    """
    worst = max(abs(trajectory.drift), trajectory.largest_deviation)
    if not worst < DRIFT_LIMIT:
        raise RuntimeError(
            f"the total energy drifted by {trajectory.drift:+.3f} meV/atom and deviated by up to "
            f"{trajectory.largest_deviation:.3f} meV/atom in {PICOSECONDS} ps; "
            f"allowed is {DRIFT_LIMIT}"
        )
