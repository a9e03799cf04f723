"""Phonons through phonopy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from nequip_core.errors import ConfigError
from nequip_core.files import atomic_path
from nequip_integrations import drawing

__all__ = ["default_supercell", "figure", "phonons"]

_LONGEST = 10.0  # Angstrom, what a supercell reaches if nothing is said
_MESH = 60.0  # Angstrom, phonopy's measure of the density of a mesh


def default_supercell(atoms: Atoms) -> tuple[int, int, int]:
    """Return how often a cell is repeated along each vector to be 10 Angstrom long."""
    first, second, third = (int(np.ceil(_LONGEST / length)) for length in atoms.cell.lengths())
    return first, second, third


def phonons(
    atoms: Atoms,
    supercell: tuple[int, int, int],
    displacement: float,
    temperature: float,
    output: Path,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Return frequencies of a structure, and write phonopy's file with its force constants.

    Args:
        atoms: a relaxed structure with a calculator.
        supercell: how often it is repeated along each cell vector.
        displacement: of each atom, Angstrom.
        temperature: of the free energy, K.
        output: phonopy's file, with displacements and forces.
        report: called after each displacement with its number and how many there are.

    Raises:
        ConfigError: the structure is not periodic.
        NequIPError: the model fails.
    """
    if not atoms.pbc.all():
        raise ConfigError("phonons need a structure periodic in three directions")
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    unit = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        scaled_positions=atoms.get_scaled_positions(),
        cell=atoms.cell.array,
        masses=atoms.get_masses(),
    )
    # What it computes is None in its annotations before it is asked for.
    phonon: Any = Phonopy(unit, supercell_matrix=np.diag(supercell), primitive_matrix=np.eye(3))
    phonon.generate_displacements(distance=displacement)
    displaced: list[Any] = list(phonon.supercells_with_displacements)
    forces = []
    for number, one in enumerate(displaced, 1):
        moved = Atoms(one.symbols, cell=one.cell, scaled_positions=one.scaled_positions, pbc=True)
        moved.calc = atoms.calc
        found = moved.get_forces()
        forces.append(found - found.mean(axis=0))
        if report is not None:
            report(number, len(displaced))
    phonon.forces = forces
    phonon.produce_force_constants()
    with atomic_path(output) as path:
        phonon.save(str(path))
    phonon.run_mesh(_MESH)
    phonon.run_total_dos()
    phonon.run_thermal_properties(temperatures=[temperature])
    frequencies, dos = phonon.mesh.frequencies, phonon.total_dos
    return {
        "supercell": list(supercell),
        "displacements": len(displaced),
        "lowest_frequency_THz": float(frequencies.min()),
        "highest_frequency_THz": float(frequencies.max()),
        "gamma_frequencies_THz": _at(phonon, [0.0, 0.0, 0.0]),
        "free_energy_kJ_per_mol": float(phonon.thermal_properties.thermal_properties[1][0]),
        "temperature_K": temperature,
        "dos": {
            "frequencies_THz": np.asarray(dos.frequency_points).tolist(),
            "states_per_THz": np.asarray(dos.dos).tolist(),
        },
        "bands": _bands(phonon, atoms),
    }


def _at(phonon: Any, point: list[float]) -> list[float]:
    phonon.run_qpoints([point])
    return [float(one) for one in phonon.qpoints.frequencies[0]]


def _bands(phonon: Any, atoms: Atoms) -> dict[str, Any]:
    """Return frequencies along ASE's path for this cell."""
    path = atoms.cell.bandpath(npoints=120)
    phonon.run_qpoints(path.kpts)
    x, ticks, names = path.get_linear_kpoint_axis()
    return {
        "frequencies_THz": np.asarray(phonon.qpoints.frequencies).tolist(),
        "x": np.asarray(x).tolist(),
        "ticks": np.asarray(ticks).tolist(),
        "names": list(names),
    }


def figure(found: dict[str, Any]) -> bytes:
    """Return a PNG of bands and density of states."""
    bands, dos = found["bands"], found["dos"]
    drawn, (left, right) = drawing.grid(2, columns=2, width=4.2)
    x, frequencies = np.array(bands["x"]), np.array(bands["frequencies_THz"])
    # Where the path jumps, two points have one place.
    jumps = np.flatnonzero(np.diff(x) == 0) + 1
    for piece, values in zip(np.split(x, jumps), np.split(frequencies, jumps), strict=True):
        left.plot(piece, values, color=drawing.COLORS[0], linewidth=1.0)
    for tick in bands["ticks"]:
        left.axvline(tick, color=drawing.GREY, linewidth=0.6)
    left.axhline(0.0, color=drawing.GREY, linewidth=0.6)
    left.set_xlim(bands["x"][0], bands["x"][-1])
    drawing.style(left, "phonon bands", "", "frequency (THz)")
    labels: dict[float, list[str]] = {}
    for tick, name in zip(bands["ticks"], bands["names"], strict=True):
        labels.setdefault(tick, []).append(name.replace("G", "Γ"))
    left.set_xticks(list(labels), ["|".join(names) for names in labels.values()])
    right.plot(dos["states_per_THz"], dos["frequencies_THz"], color=drawing.COLORS[0])
    drawing.style(right, "density of states", "states per THz and cell", "frequency (THz)")
    return drawing.png(drawn)
