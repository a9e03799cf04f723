"""Every golden package is still read, and still predicts what it predicted when it was written."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from safetensors.torch import load_file, save_file

from nequip_core.archive.format import CURRENT_FORMAT, OLDEST_FORMAT
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.loading import load_example_data, load_package

FOLDER = Path(__file__).parent
GOLDENS = sorted(path.parent for path in FOLDER.glob("*/model.nequip.zip"))
VERIFY = FOLDER.parents[1] / "tools" / "golden" / "verify.py"
TOLERANCE = 1e-12  # float64, over any torch: only the order of sums may differ

each_golden = pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.name)


def recorded_frames(golden: Path) -> dict[str, dict[str, dict[str, torch.Tensor]]]:
    """Return frame name -> `input` or `output` -> field -> tensor."""
    frames: dict[str, dict[str, dict[str, torch.Tensor]]] = {}
    for key, value in load_file(golden / "frames.safetensors").items():
        name, kind, field = key.split("/")
        frames.setdefault(name, {"input": {}, "output": {}})[kind][field] = value
    return frames


def test_there_are_goldens() -> None:
    assert len(GOLDENS) >= 1


def test_every_folder_is_a_golden() -> None:
    # Networks of other writers are beside them, without a format of ours in their names.
    folders = {path for path in FOLDER.iterdir() if path.name.startswith("format")}
    assert folders == set(GOLDENS)


@each_golden
def test_files_are_the_recorded_ones(golden: Path) -> None:
    lines = (golden / "SHA256SUMS").read_text().splitlines()
    recorded = {name: digest for digest, name in (line.split() for line in lines)}
    assert set(recorded) == {"model.nequip.zip", "frames.safetensors"}
    for name, digest in recorded.items():
        assert hashlib.sha256((golden / name).read_bytes()).hexdigest() == digest
        assert digest in (golden / "PROVENANCE.md").read_text()


@each_golden
def test_metadata_is_read_without_running_code(golden: Path) -> None:
    reader = PackageReader(golden / "model.nequip.zip")
    assert OLDEST_FORMAT <= reader.format_version <= CURRENT_FORMAT
    assert golden.name.startswith(f"format{reader.format_version}-")
    assert reader.metadata["atom_types"] == {0: "Cu", 1: "Au"}
    assert "eager" in reader.metadata["available_models"]
    assert reader.metadata["versions"]["torch"]
    assert "training_module" in reader.config_text


@each_golden
def test_predictions_are_reproduced(golden: Path) -> None:
    model = load_package(golden / "model.nequip.zip", trust_code=True).models["sole_model"]
    frames = recorded_frames(golden)
    assert len(frames) >= 3
    for name, frame in frames.items():
        found = model(dict(frame["input"]))
        assert {"total_energy", "forces"} <= set(frame["output"])
        for key, expected in frame["output"].items():
            assert found[key].dtype == expected.dtype == torch.float64
            torch.testing.assert_close(
                found[key].detach(),
                expected,
                rtol=0.0,
                atol=TOLERANCE,
                msg=lambda text, what=f"{key} of {name}": f"{what}: {text}",
            )


@each_golden
def test_model_states_what_the_metadata_states(golden: Path) -> None:
    reader = PackageReader(golden / "model.nequip.zip")
    model = load_package(reader.path, trust_code=True).models["sole_model"]
    assert model.is_graph_model
    assert list(model.type_names) == list(reader.metadata["atom_types"].values())
    if "r_max" in reader.metadata:
        assert float(model.metadata["r_max"]) == reader.metadata["r_max"]


@each_golden
def test_example_fits_the_model(golden: Path) -> None:
    model = load_package(golden / "model.nequip.zip", trust_code=True).models["sole_model"]
    out = model(load_example_data(golden / "model.nequip.zip", trust_code=True))
    assert torch.isfinite(out["total_energy"]).all()


@each_golden
def test_core_brings_every_module_that_a_golden_needs(golden: Path) -> None:
    requirements = [Requirement(text) for text in importlib.metadata.requires("nequip-core") or []]
    brought = {item.name for item in requirements if item.marker is None}
    tops = {
        name.partition(".")[0] for name in PackageReader(golden / "model.nequip.zip").extern_modules
    }
    assert tops - sys.stdlib_module_names <= brought


def verify(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(VERIFY), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_verify_reproduces_every_golden() -> None:
    version = importlib.metadata.version("nequip-core")
    result = verify(FOLDER, "--expect", f"nequip-core=={version}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("reproduced") == len(GOLDENS)


def test_verify_reports_a_change_a_wrong_version_and_an_empty_folder(tmp_path: Path) -> None:
    assert verify(tmp_path).returncode == 1
    shutil.copytree(GOLDENS[0], tmp_path / "golden")
    tensors = load_file(tmp_path / "golden" / "frames.safetensors")
    tensors["crystal/output/forces"][0, 0] += 1e-9
    save_file(tensors, tmp_path / "golden" / "frames.safetensors")
    result = verify(tmp_path, "--expect", "nequip-core==0.0.0")
    assert result.returncode == 1
    assert "frames.safetensors: changed since it was recorded" in result.stdout
    assert "forces of frame 'crystal' is off by 1e-09" in result.stdout
    assert "expected 0.0.0" in result.stdout


@each_golden
def test_every_metadata_key_is_documented(golden: Path) -> None:
    reader = PackageReader(golden / "model.nequip.zip")
    text = (FOLDER.parents[1] / f"docs/formats/package-v{reader.format_version}.md").read_text()
    documented = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    assert set(reader.raw_metadata) <= documented
