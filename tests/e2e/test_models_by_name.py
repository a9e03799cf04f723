"""A served model, used by its name wherever the file of a model is: training, compiling, ASE."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from nequip_core.archive.loading import ModelFromPackage
from nequip_core.archive.reader import PackageReader
from nequip_core.saved_model import local_file
from nequip_integrations.ase import NequIPCalculator
from nequip_train.resolvers import cutoff_radius_from_package, type_names_from_package

pytest.importorskip("requests")
pytest.importorskip("waitress")

FOLDER = Path(__file__).parent
PACKAGE = FOLDER.parent / "golden" / "format3-nequip-0.2.0" / "model.nequip.zip"
NAME = "nequip.net:our-group/Alloy:1.0"
# Same float64 arithmetic in another order: eV and eV/Å.
TOLERANCE = 1e-9


def command(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def run(name: str, *arguments: str, **options: Any) -> str:
    """Run a command of the environment and return what it printed to standard output."""
    result = subprocess.run([command(name), *arguments], capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{name} {arguments}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return where a repository with one model is served."""
    folder = tmp_path_factory.mktemp("models")
    run("nequip-package", "push", str(PACKAGE), str(folder), NAME)
    words = [command("nequip-package"), "serve", str(folder), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        yield server.stderr.readline().split()[-1]
        server.kill()


@pytest.fixture(autouse=True)
def cache(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the cache, which is empty: the model has to be fetched."""
    for name in ("NEQUIP_NO_CACHE", "NEQUIP_TRUST_CODE", "NEQUIP_COMPILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEQUIP_REPOSITORY", address)
    monkeypatch.setenv("NEQUIP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("NEQUIP_COMPILE_CACHE", str(tmp_path / "compiled"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def crystal(seed: int = 0) -> Any:
    """Return a rattled Cu-Au crystal of four atoms."""
    generator = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True, a=3.85)
    atoms.symbols[generator.permutation(4)[: 1 + seed % 3]] = "Au"
    atoms.positions += generator.normal(scale=0.08, size=(4, 3))
    return atoms


def forces(calculator: NequIPCalculator) -> np.ndarray:
    atoms = crystal()
    atoms.calc = calculator
    return np.asarray(atoms.get_forces())


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    """Return the forces of the model in the file, eV/Å."""
    return forces(NequIPCalculator(PACKAGE, compile=False))


def fetched(cache: Path) -> list[str]:
    return [path.name.partition(".")[0] for path in (cache / "packages").glob("*")]


def test_resolvers_and_python_take_a_name(cache: Path) -> None:
    assert type_names_from_package(NAME) == ["Cu", "Au"]
    assert cutoff_radius_from_package(NAME) == 4.5
    assert fetched(cache) == [PackageReader(PACKAGE).identity]
    assert list(ModelFromPackage(NAME)) == ["sole_model"]


def test_training_goes_on_from_a_served_model(cache: Path, tmp_path: Path) -> None:
    frames = []
    for seed in range(12):
        atoms = crystal(seed)
        atoms.calc = EMT()
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    write(tmp_path / "frames.xyz", frames)
    config = yaml.safe_load((FOLDER / "config.yaml").read_text())
    config["cutoff_radius"] = "${cutoff_radius_from_package:${model}}"
    config["model_type_names"] = "${type_names_from_package:${model}}"
    config["model"] = NAME
    config["data"].pop("stats_manager")
    config["trainer"] |= {"logger": False, "max_epochs": 1}
    config["training_module"]["optimizer"]["lr"] = 1e-5
    config["training_module"]["model"] = {
        "_target_": "nequip.model.ModelFromPackage",
        "package_path": "${model}",
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run("nequip-train", "config.yaml")
    identity = PackageReader(PACKAGE).identity
    assert fetched(cache) == [identity]
    # The checkpoint carries what it started from: neither the cache nor the server is needed.
    shutil.rmtree(cache)
    alone = {**os.environ, "NEQUIP_REPOSITORY": (tmp_path / "nowhere").as_uri()}
    run("nequip-package", "build", "training/best.ckpt", "tuned.nequip.zip", env=alone)
    [step] = PackageReader(tmp_path / "tuned.nequip.zip").lineage[:1]
    assert (step["relation"], step["digest"]) == ("fine-tuned", identity)


def stale(compiled: Path, target: Path) -> Path:
    """Write a compiled file anew as one of another torch."""
    with zipfile.ZipFile(compiled) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith("_metadata.json"):
                content = json.dumps(
                    {**json.loads(content), "nequip_torch_version": "2.3.0"}
                ).encode()
            new.writestr(item, content)
    return target


def test_served_model_is_compiled_and_simulated(
    cache: Path, tmp_path: Path, expected: np.ndarray
) -> None:
    run("nequip-compile", NAME, "model.nequip.pt2", "--device", "cpu", "--target", "ase")
    assert fetched(cache) == [PackageReader(PACKAGE).identity]
    from_file = NequIPCalculator.from_compiled_model("model.nequip.pt2")
    np.testing.assert_allclose(forces(from_file), expected, rtol=0, atol=TOLERANCE)
    # The same model for the same engine: what was compiled is kept.
    by_name = NequIPCalculator(NAME, require_compiled=True)
    assert "compiled earlier on this machine" in by_name.way
    np.testing.assert_allclose(forces(by_name), expected, rtol=0, atol=TOLERANCE)
    assert "not compared" not in run("nequip-compile", "verify", "model.nequip.pt2")
    # One of elsewhere is compiled again of its model, which is fetched again.
    shutil.rmtree(cache)
    again = NequIPCalculator(stale(tmp_path / "model.nequip.pt2", tmp_path / "old.nequip.pt2"))
    assert "its saved model is at hand" in again.way
    assert fetched(cache) == [PackageReader(PACKAGE).identity]
    np.testing.assert_allclose(forces(again), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("way", ["the class", "from_package"])
def test_calculator_takes_a_name(cache: Path, expected: np.ndarray, way: str) -> None:
    if way == "the class":
        calculator = NequIPCalculator(NAME, compile=False)
    else:
        calculator = NequIPCalculator.from_package(NAME)
    assert fetched(cache) == [PackageReader(PACKAGE).identity]
    np.testing.assert_array_equal(forces(calculator), expected)


def test_cached_model_is_simulated_where_there_is_no_network(expected: np.ndarray) -> None:
    alone = [str(shutil.which("unshare")), "-rn"]
    if alone[0] == "None" or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("network namespaces are not for this user")
    local_file(NAME)
    code = (
        "import sys\n"
        "from ase.io import read\n"
        "from nequip_integrations.ase import NequIPCalculator\n"
        "from nequip_train.resolvers import cutoff_radius_from_package\n"
        "atoms = read('crystal.xyz')\n"
        "atoms.calc = NequIPCalculator(sys.argv[1], compile=False)\n"
        "print(repr(float(atoms.get_forces()[0, 0])), cutoff_radius_from_package(sys.argv[1]))\n"
    )
    write("crystal.xyz", crystal(), columns=["symbols", "positions"])
    words = [*alone, sys.executable, "-c", code, NAME]
    found = subprocess.run(words, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    force, cutoff = map(float, found.stdout.split())
    assert cutoff == 4.5
    # Eight digits of the positions are in the file.
    np.testing.assert_allclose(force, expected[0, 0], rtol=0, atol=1e-5)
