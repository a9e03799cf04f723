"""Packages that versions of ``nequip`` wrote run in ASE with their own code: the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from nequip_core.archive.loading import load_package
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.trust import TRUST_VARIABLE
from nequip_core.saved_model import load_saved_model
from nequip_integrations.ase import NequIPCalculator
from nequip_package.build import build_package
from nequip_package.upgrade import upgrade_package

FOLDER = Path(__file__).parent / "reference"
FILES = sorted(FOLDER.glob("*/*.nequip.zip"))
TOLERANCE = 1e-12  # float64, eV and Angstrom; only the order of sums differs

each_file = pytest.mark.parametrize(
    "file", FILES, ids=[f"{file.parent.name}-{file.name.split('.')[0]}" for file in FILES]
)
# NequIP up to 0.16 compiles a function by TorchScript when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
few_files = pytest.mark.parametrize("version", ["0.10.0", "0.14.0", "0.19.1"])


@pytest.fixture(autouse=True)
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be known as built here."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)


def assert_ase_gives_the_recorded(package: Path, file: Path) -> None:
    """Check energies and forces of ASE's calculator against those that `file`'s version gave."""
    calculator = NequIPCalculator.from_package(package, trust_code=True)
    with np.load(file.parent / f"{file.name.split('.')[0]}.npz") as arrays:
        for frame in ("crystal", "sheared", "molecule"):
            cell = arrays.get(f"{frame}/input/cell")
            atoms = Atoms(
                np.array(["Cu", "Au"])[arrays[f"{frame}/input/atom_types"].reshape(-1)],
                arrays[f"{frame}/input/pos"],
                cell=None if cell is None else cell.reshape(3, 3),
                pbc=cell is not None,
                calculator=calculator,
            )
            found = {
                "total_energy": np.array([[atoms.get_potential_energy()]]),
                "atomic_energy": atoms.get_potential_energies()[:, None],
                "forces": atoms.get_forces(),
            }
            for key, value in found.items():
                expected = arrays[f"{frame}/output/{key}"]
                np.testing.assert_allclose(value, expected, rtol=TOLERANCE, atol=TOLERANCE)


@each_file
def test_ase_runs_a_package_of_nequip_with_consent(
    file: Path, stored: Callable[[Path], Path]
) -> None:
    assert_ase_gives_the_recorded(stored(file), file)


@few_files
def test_ase_runs_it_after_an_upgrade_and_packaged_again(
    version: str, tmp_path: Path, stored: Callable[[Path], Path]
) -> None:
    file = FOLDER / version / "basic.nequip.zip"
    plain = stored(file)
    upgraded, again = tmp_path / "up.nequip.zip", tmp_path / "again.nequip.zip"
    upgrade_package(plain, upgraded, trust_code=True)
    assert PackageReader(upgraded).format_version == 3
    assert_ase_gives_the_recorded(upgraded, file)
    build_package(load_saved_model(upgraded, trust_code=True), again)
    assert_ase_gives_the_recorded(again, file)


@pytest.mark.parametrize("mode", ["eager", "compile"])
@pytest.mark.parametrize(("name", "table"), [("basic", None), ("rich", "3.5 3.5 3.75 4.0")])
def test_a_model_of_nequip_states_its_cutoffs(
    name: str, table: str | None, mode: str, stored: Callable[[Path], Path]
) -> None:
    path = stored(FOLDER / "0.19.1" / f"{name}.nequip.zip")
    saved = load_package(path, trust_code=True, mode=mode)
    model = saved.models["sole_model"]
    assert saved.loaded_by == "snapshot"
    assert model.r_max == 4.0
    assert model.per_edge_type_cutoff == table
