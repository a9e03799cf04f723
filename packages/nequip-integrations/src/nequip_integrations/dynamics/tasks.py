"""What ``nequip-md`` does, a function a task."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io.extxyz import write_extxyz

from nequip_core.errors import ConfigError
from nequip_core.files import atomic_path
from nequip_integrations import drawing
from nequip_integrations.dynamics import (
    elasticity,
    energy_report,
    equation_of_state,
)
from nequip_integrations.dynamics.ensembles import Ensemble
from nequip_integrations.dynamics.recording import RunFiles, with_results
from nequip_integrations.dynamics.relaxation import largest_force, relaxed
from nequip_integrations.dynamics.run import restored, run, started
from nequip_integrations.model_arguments import open_calculator
from nequip_integrations.progress import CommandProgress
from nequip_integrations.structure_files import first_structure

__all__ = ["elastic", "eos", "molecular_dynamics", "phonons", "relax"]


def molecular_dynamics(options: argparse.Namespace) -> int:
    """Run ``nve``, ``nvt`` or ``npt``."""
    files = RunFiles(_prefix(options))
    ensemble = Ensemble(
        name=options.task,
        timestep=options.timestep,
        temperature=options.temperature,
        pressure=options.pressure,
        thermostat=options.thermostat,
        damping=options.damping,
        barostat_damping=options.barostat_damping,
        seed=options.seed,
    )
    settings = {**ensemble.as_json(), "every": options.every, "model": options.model}
    saved = None
    if options.resume:
        saved = files.saved(settings)
        atoms = restored(saved)
        origin = f"goes on at step {saved.step}"
    else:
        if not options.overwrite:
            files.require_new()
        atoms, drawn = started(_structure(options), ensemble)
        origin = f"velocities {'drawn' if drawn else 'of the file'}"
    atoms.calc = open_calculator(options.model, options)
    print(f"{len(atoms)} atoms, {origin}; {atoms.calc.way}", flush=True)  # noqa: T201
    with CommandProgress(options.task, options.steps) as progress:

        def report(step: int, seconds: float) -> None:
            speed = options.timestep * 1e-6 * 86400 / max(seconds, 1e-12)
            progress.advance(step, f"step {step}, {speed:.3g} ns/day")

        seconds = run(atoms, ensemble, options.steps, options.every, files, settings, saved, report)
    log = energy_report.read_log(files.log)
    found = energy_report.summary(log, len(atoms), seconds, options.timestep)
    print(energy_report.summary_text(found))  # noqa: T201
    _write_json(files.summary, {**settings, **found})
    if drawing.available():
        with atomic_path(files.plot) as path:
            path.write_bytes(energy_report.figure(log, len(atoms)))
    print(f"trajectory: {files.trajectory}, log: {files.log}")  # noqa: T201
    return 0


def relax(options: argparse.Namespace) -> int:
    """Relax a structure; the exit code is 1 where its forces stay too large."""
    prefix = _prefix(options)
    trajectory, final = _named(prefix, ".xyz"), _named(prefix, ".final.xyz")
    _require_free(options, final)
    atoms = _opened(options)
    with (
        atomic_path(trajectory) as path,
        path.open("w") as stream,
        CommandProgress("relax", options.max_steps) as progress,
    ):

        def report(moving: Atoms, step: int) -> None:
            write_extxyz(stream, [with_results(moving)])
            progress.advance(step, f"step {step}, largest force {largest_force(moving):.3g} eV/Å")

        found, converged = relaxed(
            atoms, options.fmax, options.max_steps, options.cell, options.pressure, report
        )
    with atomic_path(final) as path, path.open("w") as stream:
        write_extxyz(stream, [with_results(found)])
    energy = float(found.get_potential_energy())
    content = {
        "converged": converged,
        "energy_eV": energy,
        "largest_force_eV_per_A": largest_force(found),
        "cell_A": found.cell.array.tolist(),
    }
    _write_json(_named(prefix, ".json"), content)
    state = "relaxed" if converged else f"NOT relaxed after {options.max_steps} steps"
    print(  # noqa: T201
        f"{state}: energy {energy:.6f} eV, largest force {largest_force(found):.3g} eV/Å; {final}"
    )
    return 0 if converged else 1


def eos(options: argparse.Namespace) -> int:
    """Compute an equation of state."""
    if options.points < 5:
        raise ConfigError(f"--points must be at least 5, got {options.points}")
    prefix = _prefix(options)
    _require_free(options, _named(prefix, ".json"))
    found = equation_of_state.equation_of_state(
        _opened(options), options.strain or 0.04, options.points, options.fmax, options.max_steps
    )
    print(  # noqa: T201
        f"volume {found['volume_A3_per_atom']:.4f} Å³/atom, energy "
        f"{found['energy_eV_per_atom']:.6f} eV/atom, bulk modulus "
        f"{found['bulk_modulus_GPa']:.2f} GPa"
    )
    _write_json(_named(prefix, ".json"), found)
    if drawing.available():
        _write_plot(prefix, equation_of_state.figure(found))
    return 0


def elastic(options: argparse.Namespace) -> int:
    """Compute elastic constants; the exit code is 1 where the structure is not stable."""
    prefix = _prefix(options)
    _require_free(options, _named(prefix, ".json"))
    found = elasticity.elastic_constants(
        _opened(options),
        options.strain or 0.005,
        options.fmax,
        options.max_steps,
        relax=not options.as_it_is,
    )
    print(elasticity.matrix_text(found))  # noqa: T201
    _write_json(_named(prefix, ".json"), found)
    return 0 if found["is_stable"] else 1


def phonons(options: argparse.Namespace) -> int:
    """Compute phonons."""
    from nequip_integrations.dynamics import phonons as computed

    prefix = _prefix(options)
    _require_free(options, _named(prefix, ".json"))
    atoms = _opened(options)
    if not options.as_it_is:
        atoms, _ = relaxed(atoms, options.fmax, options.max_steps, cell=True)
    supercell = tuple(options.supercell or computed.default_supercell(atoms))
    with CommandProgress("phonons", None) as progress:
        found = computed.phonons(
            atoms,
            supercell,  # type: ignore[arg-type]
            options.displacement,
            options.temperature,
            _named(prefix, ".phonopy.yaml"),
            lambda number, count: progress.advance(number, f"displacement {number} of {count}"),
        )
    lowest = found["lowest_frequency_THz"]
    print(  # noqa: T201
        f"{found['displacements']} displacements in a {supercell[0]} x {supercell[1]} x "
        f"{supercell[2]} supercell; frequencies from {round(lowest, 3) + 0.0:.3f} to "
        f"{found['highest_frequency_THz']:.3f} THz"
        + ("" if lowest > -0.05 else ": imaginary ones, the structure is not at a minimum")
    )
    _write_json(_named(prefix, ".json"), found)
    if drawing.available():
        _write_plot(prefix, computed.figure(found))
    return 0


def _prefix(options: argparse.Namespace) -> Path:
    """Return what the names of all files begin with."""
    if options.output:
        return Path(options.output)
    return Path(f"{Path(options.structure).stem}.{options.task}")


def _named(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)


def _require_free(options: argparse.Namespace, path: Path) -> None:
    """Check that nothing is overwritten.

    Raises:
        ConfigError: something would be.
    """
    if path.exists() and not options.overwrite:
        raise ConfigError(f"there is '{path}' already: -o names another place, or --overwrite")


def _structure(options: argparse.Namespace) -> Atoms:
    atoms = first_structure(options.structure)
    return atoms.repeat(options.repeat) if options.repeat else atoms


def _opened(options: argparse.Namespace) -> Atoms:
    """Return the structure with the model's calculator."""
    atoms = _structure(options)
    atoms.calc = open_calculator(options.model, options)
    print(f"{len(atoms)} atoms; {atoms.calc.way}", flush=True)  # noqa: T201
    return atoms


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as file:
        file.write_text(json.dumps(content, indent=1) + "\n")


def _write_plot(prefix: Path, image: bytes) -> None:
    with atomic_path(_named(prefix, ".png")) as path:
        path.write_bytes(image)
