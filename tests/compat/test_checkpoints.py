"""Checkpoints of every version load and predict the same, and their structure does not drift."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from nequip_core.archive.format import CURRENT_FORMAT
from nequip_core.saved_model import load_saved_model
from nequip_model.checkpoint import CHECKPOINT_VERSION, VERSION_KEY

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
CHECKPOINTS = GOLDEN / "checkpoints"
FOLDERS = sorted(file.parent for file in CHECKPOINTS.glob("*/corpus.json"))
STRUCTURE = CHECKPOINTS / "structure.txt"
# Lightning's own, whose structure is Lightning's to change.
OF_LIGHTNING = ("callbacks", "loops", "lr_schedulers", "optimizer_states")
TOLERANCE = 1e-12  # float64, eV and Angstrom


def script(name: str) -> ModuleType:
    """Return a script of the matrix as a module."""
    path = Path(__file__).parent / "archives" / f"{name}.py"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def released(distribution: str) -> list[str]:
    """Return the released versions of a distribution."""
    entries = tomllib.loads((ROOT / "tools" / "releases.toml").read_text())["release"]
    return [item["version"] for item in entries if item["distribution"] == distribution]


def structure(value: Any, path: str = "") -> list[str]:
    """Return a line for each value that a checkpoint holds: where it is, and of what kind."""
    if isinstance(value, dict):
        return [line for key in value for line in structure(value[key], f"{path}/{key}")]
    if isinstance(value, list | tuple):
        return [line for i, item in enumerate(value) for line in structure(item, f"{path}/{i}")]
    if isinstance(value, torch.Tensor):
        return [f"{path} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"]
    return [f"{path} {type(value).__name__}"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a training of the tree writes."""
    writer = script("archives_write")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(tmp_path_factory.mktemp("training"))
        writer.write_frames()
        content: dict[str, Any] = torch.load(writer.train(writer.MODEL, "best"), weights_only=True)
    return content


def test_structure_of_a_checkpoint_has_not_drifted(written: dict[str, Any]) -> None:
    own = {key: value for key, value in written.items() if key not in OF_LIGHTNING}
    text = "\n".join(sorted(structure(own))) + "\n"
    new = STRUCTURE.with_name("structure.new.txt")
    if text != STRUCTURE.read_text():
        new.write_text(text)
        pytest.fail(
            f"checkpoints have another structure than {STRUCTURE.name}: review {new}; if it is "
            f"meant, raise CHECKPOINT_VERSION, upgrade what older versions wrote, and rename it"
        )
    assert len(text.splitlines()) > 50


def test_a_checkpoint_states_its_version(written: dict[str, Any]) -> None:
    assert written[VERSION_KEY] == 1  # it started from no file, so that 0.1 reads it


def test_there_is_a_golden_of_every_release_and_of_every_checkpoint_version() -> None:
    assert {folder.name for folder in FOLDERS} >= set(released("nequip-train"))
    corpus = script("corpus")
    items = [item for folder in FOLDERS for item in corpus.read_corpus(folder)["items"]]
    assert {item["checkpoint_version"] for item in items} >= set(range(1, CHECKPOINT_VERSION))
    assert len(FOLDERS) >= 1


def test_there_is_a_golden_package_of_every_release() -> None:
    found = {path.name.partition("-nequip-")[2] for path in GOLDEN.glob("format*-nequip-*")}
    assert found >= set(released("nequip-package"))
    assert released("nequip-package")


def test_a_new_format_comes_with_a_golden_of_the_one_before() -> None:
    formats = {int(path.name[len("format")]) for path in GOLDEN.glob("format*-nequip-*")}
    assert formats >= set(range(2, CURRENT_FORMAT))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_golden_checkpoint_predicts_the_same(folder: Path) -> None:
    corpus = script("corpus")
    for item in corpus.read_corpus(folder)["items"]:
        models = load_saved_model(folder / item["file"]).models
        record = corpus.read_record(folder / item["record"])
        assert "outputs" in corpus.compare(models, record, TOLERANCE)


# Loads a checkpoint where neither Lightning nor anything else of training can be imported.
WITHOUT_TRAINING = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("lightning", "torchmetrics", "hydra", "nequip_train"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocked())
from nequip_core.saved_model import load_saved_model
from nequip_core.synthetic import synthetic_frame

model = load_saved_model(sys.argv[1]).models["sole_model"]
print(float(model(synthetic_frame(model.type_names, 3.0))["forces"].abs().max()))
"""


def test_a_checkpoint_is_rebuilt_without_lightning() -> None:
    folder = FOLDERS[-1]
    item = script("corpus").read_corpus(folder)["items"][0]
    command = [sys.executable, "-c", WITHOUT_TRAINING, str(folder / item["file"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.0


def test_a_changed_prediction_is_noticed() -> None:
    corpus = script("corpus")
    folder = FOLDERS[0]
    item = corpus.read_corpus(folder)["items"][0]
    models = load_saved_model(folder / item["file"]).models
    record = corpus.read_record(folder / item["record"])
    record["sole_model"]["crystal"]["output"]["forces"][0, 0] += 1e-9
    with pytest.raises(AssertionError, match="forces of frame 'crystal' of 'sole_model' is off"):
        corpus.compare(models, record, TOLERANCE)
