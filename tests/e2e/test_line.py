"""The line through the real commands: config, checkpoint, package, compiled model, dynamics."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.md.verlet import VelocityVerlet

from nequip_integrations.ase import NequIPCalculator

FOLDER = Path(__file__).parent
# Same float64 arithmetic in another order: eV, eV/Å and eV/Å³.
TOLERANCE = 1e-10


def crystal(seed: int) -> Atoms:
    """Return a strained, rattled Cu-Au crystal of four atoms, smaller than the cutoff."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True, a=3.85)
    atoms.symbols[rng.permutation(4)[: 1 + seed % 3]] = "Au"
    atoms.set_cell(atoms.cell @ (np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(scale=0.08, size=(4, 3))
    return atoms


def labelled(atoms: Atoms) -> Atoms:
    """Return `atoms` with EMT's energy, forces and stress."""
    atoms.calc = EMT()
    results = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@dataclass
class Line:
    """The folder in which the commands ran, and what they printed."""

    folder: Path
    printed: dict[str, str]

    def run(self, name: str, *arguments: str) -> None:
        result = subprocess.run(
            [str(Path(sys.executable).parent / name), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            # Compiled kernels of an earlier run must not stand in for this one's.
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "cache")},
        )
        assert result.returncode == 0, f"{name} {arguments}\n{result.stdout}\n{result.stderr}"
        self.printed[" ".join([name, *arguments[:1]])] = result.stdout


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """Return the line after train, package and compile."""
    line = Line(tmp_path_factory.mktemp("line"), {})
    write(line.folder / "frames.xyz", [labelled(crystal(seed)) for seed in range(12)])
    shutil.copy(FOLDER / "config.yaml", line.folder)
    line.run("nequip-train", "config.yaml")
    line.run("nequip-package", "build", "training/best.ckpt", "model.nequip.zip")
    line.run("nequip-package", "info", "model.nequip.zip")
    line.run(
        *("nequip-compile", "model.nequip.zip", "model.nequip.pt2"),
        *("--mode", "aotinductor", "--device", "cpu", "--target", "ase"),
    )
    return line


@pytest.fixture(scope="module")
def calculators(line: Line) -> dict[str, NequIPCalculator]:
    """Return the same model from each of its three files."""
    return {
        "checkpoint": NequIPCalculator.from_checkpoint(line.folder / "training" / "best.ckpt"),
        "package": NequIPCalculator.from_package(line.folder / "model.nequip.zip"),
        "compiled": NequIPCalculator.from_compiled_model(line.folder / "model.nequip.pt2"),
    }


def test_info_names_the_species(line: Line) -> None:
    printed = line.printed["nequip-package info"]
    assert "Au" in printed
    assert "Cu" in printed


def test_nothing_half_written_is_left(line: Line) -> None:
    names = {path.name for path in line.folder.iterdir()}
    assert names >= {"model.nequip.zip", "model.nequip.pt2", "training"}
    assert not [name for name in names if name.startswith(".")]


@pytest.mark.parametrize("other", ["package", "compiled"])
@pytest.mark.parametrize("repeat", [(1, 1, 1), (2, 1, 1)], ids=["4 atoms", "8 atoms"])
def test_every_file_of_the_model_predicts_the_same(
    calculators: dict[str, NequIPCalculator], other: str, repeat: tuple[int, int, int]
) -> None:
    results = {}
    for name in ("checkpoint", other):
        atoms = crystal(100).repeat(repeat)
        atoms.rattle(0.05, seed=1)
        atoms.calc = calculators[name]
        results[name] = (
            atoms.get_potential_energy(),
            atoms.get_potential_energies(),
            atoms.get_forces(),
            atoms.get_stress(),
        )
    assert np.abs(results["checkpoint"][2]).max() > 0.01  # an untrained zero would agree as well
    for expected, found in zip(results["checkpoint"], results[other], strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_compiled_model_conserves_energy(calculators: dict[str, NequIPCalculator]) -> None:
    atoms = crystal(0).repeat((2, 1, 1))
    atoms.calc = calculators["compiled"]
    energies = []
    dynamics = VelocityVerlet(atoms, timestep=1 * units.fs)
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()), interval=1)
    dynamics.run(50)
    kinetic = atoms.get_kinetic_energy()
    assert kinetic > 0.0
    assert np.ptp(energies) < 0.02 * kinetic + 1e-3 * len(atoms)
