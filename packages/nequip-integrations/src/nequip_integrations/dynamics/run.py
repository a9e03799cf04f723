"""Running dynamics, a step after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError

from nequip_core.errors import ConfigError, DataError, NequIPError
from nequip_integrations.dynamics.ensembles import (
    Ensemble,
    conserved_energy,
    integrator,
    restore_state,
    state_of,
)
from nequip_integrations.dynamics.recording import RunFiles, SavedState
from nequip_integrations.thermal import set_thermal_momenta

__all__ = ["COLUMNS", "restored", "run", "started"]

COLUMNS = [
    "step",
    "time_ps",
    "potential_eV",
    "kinetic_eV",
    "conserved_eV",
    "temperature_K",
    "pressure_GPa",
    "volume_A3",
]
"""Columns of the log; empty where there is no such number."""

_HOTTEST = 1e6  # K; no structure is one any more


def started(atoms: Atoms, ensemble: Ensemble) -> tuple[Atoms, bool]:
    """Return a structure to start from, and whether its velocities were drawn.

    Nothing stays but what a saved state has: species, masses, positions, velocities and cell.

    Raises:
        ConfigError: the structure has constraints.
    """
    if atoms.constraints:
        raise ConfigError(
            "the structure has constraints (fixed atoms), with which nequip-md does not run "
            "dynamics: remove them, or use ASE with NequIPCalculator"
        )
    bare = _bare(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_masses())
    bare.set_momenta(atoms.get_momenta())
    if np.any(bare.get_momenta()):
        return bare, False
    set_thermal_momenta(bare, ensemble.temperature, np.random.default_rng(ensemble.seed))
    return bare, True


def restored(saved: SavedState) -> Atoms:
    """Return the structure of a saved state."""
    names = ("numbers", "positions", "cell", "pbc", "masses")
    atoms = _bare(*(saved.arrays[name] for name in names))
    atoms.set_momenta(saved.arrays["momenta"])
    return atoms


def _bare(numbers: Any, positions: Any, cell: Any, pbc: Any, masses: Any) -> Atoms:
    atoms = Atoms(numbers, positions=positions, cell=cell, pbc=pbc)
    # Masses that are set become a column of the trajectory.
    if not np.array_equal(masses, atoms.get_masses()):
        atoms.set_masses(masses)
    return atoms


def run(
    atoms: Atoms,
    ensemble: Ensemble,
    steps: int,
    every: int,
    files: RunFiles,
    settings: dict[str, Any],
    saved: SavedState | None = None,
    report: Callable[[int, float], None] | None = None,
) -> float:
    """Run to step `steps`; return the seconds of a step.

    Args:
        atoms: a structure with velocities and a calculator.
        ensemble: what is held constant.
        steps: number of the last step; those of `saved` count.
        every: steps between two structures of the trajectory.
        files: where they go.
        settings: what a continuation must agree with.
        saved: where an earlier run was.
        report: called after each step with its number and the seconds of a step.

    Raises:
        DataError: the model fails, or the structure has fallen apart; what was written stays.
        ConfigError: the run is beyond `steps` already, or its saved state does not fit.
    """
    dynamics = integrator(ensemble, atoms)
    first = 0
    if saved is not None:
        restore_state(dynamics, saved.arrays)
        first = saved.step
        if first > steps:
            raise ConfigError(f"the run is at step {first} already, beyond {steps}")
    step, last = first, first
    start = time.perf_counter()
    try:
        if saved is None:
            files.start(COLUMNS)
            files.record(atoms, 0, _row(0, ensemble, dynamics), settings, state_of(dynamics))
        for step in range(first + 1, steps + 1):
            dynamics.step()
            _require_sane(atoms)
            if step % every == 0 or step == steps:
                row = _row(step, ensemble, dynamics)
                files.record(atoms, step, row, settings, state_of(dynamics))
                last = step
            if report is not None:
                report(step, (time.perf_counter() - start) / (step - first))
    except NequIPError as error:
        raise DataError(
            f"step {step}: {error}; '{files.trajectory}' is whole up to step {last}. A shorter "
            "--timestep, a relaxed structure or a model that knows such structures may help"
        ) from error
    return (time.perf_counter() - start) / max(1, steps - first)


def _require_sane(atoms: Atoms) -> None:
    """Check a structure after a step.

    Raises:
        DataError: it is none any more.
    """
    momenta = atoms.get_momenta()
    if not (np.isfinite(momenta).all() and np.isfinite(atoms.positions).all()):
        raise DataError("positions or velocities are not finite numbers")
    temperature = atoms.get_temperature()
    if temperature > _HOTTEST:
        raise DataError(f"the temperature is {temperature:.1e} K, the structure has fallen apart")


def _row(step: int, ensemble: Ensemble, dynamics: Any) -> list[float | None]:
    """Return the line of the log, in the order of `COLUMNS`."""
    atoms = dynamics.atoms
    pressure = volume = None
    if atoms.pbc.all():
        try:
            stress = atoms.get_stress(voigt=False, include_ideal_gas=True)
            pressure = -float(np.trace(stress)) / 3 / units.GPa
        except PropertyNotImplementedError:
            pressure = None
        volume = float(atoms.get_volume())
    return [
        step,
        step * ensemble.timestep / 1000,
        float(atoms.get_potential_energy()),
        float(atoms.get_kinetic_energy()),
        conserved_energy(dynamics),
        float(atoms.get_temperature()),
        pressure,
        volume,
    ]
