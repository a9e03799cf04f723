"""Integrators of ASE by ensemble, and their inner state: a run goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms, units

from nequip_core.errors import ConfigError, MissingDependencyError

__all__ = ["Ensemble", "conserved_energy", "integrator", "restore_state", "state_of"]

# What integrators of ASE keep besides positions, momenta and cell, by the part that has it.
_INNER = {
    "": ("_q", "_p", "_eps", "_p_eps", "_volume0", "_cell0"),
    "_thermostat": ("_eta", "_p_eta"),
    "_barostat": ("_xi", "_p_xi"),
}


@dataclass(frozen=True)
class Ensemble:
    """What is held constant, and how."""

    name: str
    """``nve``, ``nvt`` or ``npt``."""
    timestep: float
    """fs."""
    temperature: float
    """K; with ``nve`` only of the velocities that a run starts with."""
    pressure: float
    """GPa; for ``npt``."""
    thermostat: str
    """``nose-hoover`` or ``langevin``; for ``nvt``."""
    damping: float
    """Time constant of the thermostat, fs."""
    barostat_damping: float
    """Time constant of the barostat, fs."""
    seed: int
    """Of velocities, and of the noise of ``langevin``."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def integrator(ensemble: Ensemble, atoms: Atoms) -> Any:
    """Return ASE's integrator for a structure with a calculator.

    Raises:
        ConfigError: there is no constant pressure for this structure.
        MissingDependencyError: the installed ASE has no such integrator.
    """
    timestep, kelvin = ensemble.timestep * units.fs, ensemble.temperature
    damping = ensemble.damping * units.fs
    if ensemble.name == "nve":
        from ase.md.verlet import VelocityVerlet

        return VelocityVerlet(atoms, timestep)
    if ensemble.name == "nvt" and ensemble.thermostat == "langevin":
        from ase.md.langevin import Langevin

        return Langevin(
            atoms,
            timestep,
            temperature_K=kelvin,
            friction=1 / damping,
            fixcm=False,
            rng=np.random.default_rng(ensemble.seed + 1),
        )
    from ase.md import nose_hoover_chain

    if ensemble.name == "nvt":
        return nose_hoover_chain.NoseHooverChainNVT(atoms, timestep, kelvin, damping)
    if not atoms.pbc.all():
        raise ConfigError(
            f"constant pressure needs a structure that is periodic in three directions, pbc is "
            f"{atoms.pbc.tolist()}; use nvt"
        )
    if not hasattr(nose_hoover_chain, "IsotropicMTKNPT"):
        raise MissingDependencyError("npt needs ASE 3.25 or later: pip install -U 'ase>=3.25'")
    return nose_hoover_chain.IsotropicMTKNPT(
        atoms,
        timestep,
        kelvin,
        ensemble.pressure * units.GPa,
        damping,
        ensemble.barostat_damping * units.fs,
    )


def conserved_energy(dynamics: Any) -> float | None:
    """Return what the dynamics conserve, eV; None where they conserve nothing."""
    if hasattr(dynamics, "get_conserved_energy"):
        return float(dynamics.get_conserved_energy())
    if hasattr(dynamics, "fr"):  # Langevin's friction
        return None
    return float(dynamics.atoms.get_potential_energy() + dynamics.atoms.get_kinetic_energy())


def state_of(dynamics: Any) -> dict[str, np.ndarray]:
    """Return the inner state of an integrator, and that of its random numbers."""
    state = {
        f"inner{part}.{name}": np.array(getattr(owner, name))
        for part, names in _INNER.items()
        if (owner := getattr(dynamics, part, None) if part else dynamics) is not None
        for name in names
        if hasattr(owner, name)
    }
    generator = getattr(dynamics, "rng", None)
    if isinstance(generator, np.random.Generator):
        state["random"] = np.array(json.dumps(generator.bit_generator.state))
    return state


def restore_state(dynamics: Any, state: dict[str, np.ndarray]) -> None:
    """Put an inner state back.

    Raises:
        ConfigError: the integrator of the installed ASE has another state.
    """
    if set(state_of(dynamics)) != {
        key for key in state if key.startswith("inner") or key == "random"
    }:
        raise ConfigError(
            "the saved state is that of another version of ASE: go on with the version that wrote "
            "it, or start from the last structure of the trajectory"
        )
    for key, value in state.items():
        if key.startswith("inner"):
            part, name = key.removeprefix("inner").split(".")
            owner = getattr(dynamics, part) if part else dynamics
            setattr(owner, name, float(value) if value.ndim == 0 else value.copy())
        elif key == "random":
            dynamics.rng.bit_generator.state = json.loads(str(value))
