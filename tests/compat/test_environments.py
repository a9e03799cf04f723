"""A package predicts what it predicted when it was written, whatever model code is installed.

Each case is a process of its own whose `sys.path` begins with a folder of impostors: an e3nn or a
nequip_model that does not import, or a nequip_model that computes something else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nequip_model

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = sorted(file.parent for file in GOLDEN.glob("format*/SHA256SUMS"))
NEWEST = FOLDERS[-1]

PREDICT = """
import sys
from safetensors.torch import load_file
from nequip_core.archive.loading import load_package
from nequip_core.tolerances import model_tolerance

folder, load = sys.argv[1:]
saved = load_package(f"{folder}/model.nequip.zip", load=load, trust_code=load == "snapshot")
model = saved.models["sole_model"]
tensors = load_file(f"{folder}/frames.safetensors")
frames = sorted({name.partition("/")[0] for name in tensors})
compared = 0
for frame in frames:
    start = f"{frame}/input/"
    found = model({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)})
    for name, expected in tensors.items():
        if name.startswith(f"{frame}/output/"):
            deviation = (found[name.rpartition("/")[2]].detach() - expected).abs().max().item()
            assert deviation <= 1e-12, (name, deviation)
            compared += 1
assert compared > 10, compared
print("e3nn" in sys.modules, "nequip_model" in sys.modules)
"""


def predict(folder: Path, load: str, impostors: Path) -> subprocess.CompletedProcess[str]:
    """Run the golden frames of `folder` with `impostors` before what is installed."""
    return subprocess.run(
        [sys.executable, "-c", PREDICT, str(folder), load],
        env={**os.environ, "PYTHONPATH": str(impostors), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def broken(folder: Path, *names: str) -> Path:
    """Return a folder with modules that fail to import."""
    for name in names:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('another release')\n")
    return folder


def different_model_layer(folder: Path) -> Path:
    """Return a folder with a nequip_model whose self-connections give the double."""
    copy = folder / "nequip_model"
    shutil.copytree(Path(nequip_model.__file__).parent, copy)
    source = copy / "nn" / "graph_model.py"
    text = source.read_text()
    changed = text.replace(
        "        return self.model(inputs)",
        "        out = self.model(inputs)\n"
        "        return {k: 2 * v if k == 'total_energy' else v for k, v in out.items()}",
    )
    assert changed != text
    source.write_text(changed)
    return folder


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_snapshot_predicts_the_same_without_model_layer_and_e3nn(
    folder: Path, tmp_path: Path
) -> None:
    done = predict(folder, "snapshot", broken(tmp_path, "nequip_model", "e3nn", "nequip_train"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_snapshot_predicts_the_same_beside_a_different_model_layer(
    folder: Path, tmp_path: Path
) -> None:
    done = predict(folder, "snapshot", different_model_layer(tmp_path))
    assert done.returncode == 0, done.stderr


def test_a_rebuild_predicts_the_same_and_imports_no_e3nn_of_the_file(tmp_path: Path) -> None:
    done = predict(NEWEST, "rebuild", tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_rebuild_by_a_different_model_layer_is_refused(tmp_path: Path) -> None:
    done = predict(NEWEST, "rebuild", different_model_layer(tmp_path))
    assert done.returncode != 0
    assert "total_energy" in done.stderr
    assert "FileFormatError" in done.stderr or "ConfigError" in done.stderr


def test_a_rebuild_without_the_model_layer_says_what_to_install(tmp_path: Path) -> None:
    done = predict(NEWEST, "rebuild", broken(tmp_path, "nequip_model"))
    assert done.returncode != 0
    assert "nequip-model" in done.stderr
