"""Dynamics at constant energy."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE

from nequip_integrations.physics.lines import Line, Panel
from nequip_integrations.physics.subject import Subject, rattled
from nequip_integrations.thermal import set_thermal_momenta

__all__ = ["drift_line"]

_TEMPERATURE = 300.0  # K
_RELAXATION = 50  # steps, at most
_LIGHT = 12.0  # u; lighter atoms get half the time step


def drift_line(subject: Subject, atoms: Atoms, steps: int) -> Line:
    """Return the line on the drift of the total energy.

    Args:
        subject: what is graded.
        atoms: where it starts from; is relaxed for some steps first.
        steps: number of steps.
    """
    moving = rattled(atoms, 0.0)
    moving.calc = subject.calculator
    FIRE(moving, logfile=None).run(fmax=0.1, steps=_RELAXATION)
    set_thermal_momenta(moving, 2 * _TEMPERATURE, np.random.default_rng(6))
    timestep = 0.5 if moving.get_masses().min() < _LIGHT else 1.0  # fs
    dynamics = VelocityVerlet(moving, timestep * units.fs)
    totals, temperatures = [], []
    for _ in range(steps):
        dynamics.step()
        totals.append(moving.get_potential_energy() + moving.get_kinetic_energy())
        temperatures.append(moving.get_temperature())
    times = timestep * np.arange(1, steps + 1) / 1000  # ps
    energies = (np.array(totals) - totals[0]) / len(moving) * 1000  # meV/atom
    slope = 0.0
    if steps > 1:
        known = np.isfinite(energies).all()  # a fit of anything else is an error of numpy
        slope = float(np.polyfit(times, energies, 1)[0]) if known else float("nan")
    return Line(
        "drift",
        "Dynamics at constant energy keep it.",
        abs(slope) * float(times[-1]),
        0.5,
        "meV/atom",
        f"{steps} steps of {timestep} fs with {len(moving)} atoms, from "
        f"{2 * _TEMPERATURE:.0f} K after at most {_RELAXATION} steps of relaxation; mean "
        f"temperature {np.mean(temperatures):.0f} K. The value is what a line through the total "
        f"energy gains in this time; its largest excursion is {np.abs(energies).max():.2g} "
        "meV/atom.",
        [
            Panel(
                "total energy",
                "time (ps)",
                "change (meV/atom)",
                {"": (times, energies)},
                y_range=_range(energies),
            )
        ],
    )


def _range(values: np.ndarray) -> tuple[float, float]:
    reach = 1.2 * float(np.abs(values[np.isfinite(values)]).max(initial=0.05))
    return (-reach, reach)
