"""Training that starts from a package or a checkpoint, and what its checkpoints carry."""

from __future__ import annotations

import copy
import logging
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from nequip_compile.command import main as compile_main
from nequip_core.archive.loading import load_package
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.snapshot import importer_of
from nequip_core.archive.trust import TRUST_VARIABLE
from nequip_core.errors import TrustError
from nequip_core.saved_model import load_saved_model
from nequip_core.synthetic import synthetic_frame
from nequip_integrations.ase import NequIPCalculator
from nequip_model.checkpoint import BASES_KEY, load_checkpoint
from nequip_package.build import build_package
from nequip_train.command import main

FOLDER = Path(__file__).parent
REFERENCE = FOLDER.parent / "golden/reference"
TOLERANCE = 1e-12

Train = Callable[..., int]


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True)
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be known as built here, and work in a folder with data."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    frames = []
    for seed in range(12):
        atoms = bulk("Cu", cubic=True, a=3.85)
        generator = np.random.default_rng(seed)
        atoms.symbols[generator.permutation(4)[: 1 + seed % 3]] = "Au"
        atoms.positions += generator.normal(scale=0.08, size=(4, 3))
        atoms.calc = EMT()
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    ase.io.write(tmp_path / "frames.xyz", frames)


@pytest.fixture
def config() -> dict[str, Any]:
    """The small config of the line, with a trainer that logs nothing."""
    config = yaml.safe_load((FOLDER / "config.yaml").read_text())
    config["trainer"] |= {"logger": False, "max_epochs": 1}
    config["trainer"]["callbacks"][0]["save_last"] = True
    config["run"] = ["train", "test"]
    del config["hydra"]
    return config


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Return a function that trains by a config into a folder and returns the exit code."""

    def run(config: dict[str, Any], folder: str, *arguments: str) -> int:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            return main(["config.yaml", f"hydra.run.dir={folder}", *arguments])

    return run


@pytest.fixture
def base(config: dict[str, Any], train: Train, tmp_path: Path) -> Path:
    """Return a package of a model that was trained for an epoch."""
    assert train(config, "base") == 0
    saved = load_checkpoint("base/best.ckpt")
    path = build_package(saved, tmp_path / "base.nequip.zip")
    # The build makes it known; these tests are about packages of strangers.
    shutil.rmtree(tmp_path / "nobody", ignore_errors=True)
    return path


def starting_from(config: dict[str, Any], **model: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    changed["training_module"]["model"] = {"_target_": "nequip.model.ModelFromPackage", **model}
    # Nothing but a file says these now.
    changed["data"].pop("stats_manager")
    return changed


def outputs(model: Any) -> dict[str, torch.Tensor]:
    frame = synthetic_frame(["Au", "Cu"], 3.5)
    if list(model.type_names) != ["Au", "Cu"]:
        frame = synthetic_frame(list(model.type_names), float(model.metadata["r_max"]))
    out = model(frame)
    return {key: out[key].detach() for key in ("total_energy", "forces", "stress")}


def assert_same(found: Any, expected: Any) -> None:
    for key, value in outputs(expected).items():
        torch.testing.assert_close(outputs(found)[key], value, rtol=TOLERANCE, atol=TOLERANCE)


def differs(found: Any, expected: Any) -> bool:
    return bool((outputs(found)["forces"] - outputs(expected)["forces"]).abs().max() > 1e-6)


def sole(path: Path | str, **arguments: Any) -> Any:
    return load_saved_model(path, **arguments).models["sole_model"]


@pytest.mark.parametrize("way", ["rebuild", "snapshot"])
def test_training_from_a_package_goes_on_from_its_weights(
    way: str, config: dict[str, Any], train: Train, base: Path, tmp_path: Path
) -> None:
    consent = way == "snapshot"
    tuned = starting_from(config, package_path=str(base), trust_code=consent)
    assert train(tuned, "still", "training_module.optimizer.lr=0.0") == 0
    assert_same(sole("still/best.ckpt", trust_code=consent), sole(base, trust_code=consent))
    assert train(tuned, "tuned") == 0
    found = load_checkpoint("tuned/best.ckpt", trust_code=consent)
    model = found.models["sole_model"]
    assert (importer_of(model) is not None) == consent
    assert differs(model, sole(base))
    assert not model.training
    # Forces and energies of another model would not agree to this.
    assert found.parent is not None
    assert found.parent.relation == "fine-tuned"
    assert found.parent.digest == PackageReader(base).identity
    assert found.parent.format == 3
    assert found.training["epoch"] == 0
    assert found.training["global_step"] == 2
    assert found.training["monitor"] == "val0_epoch/weighted_sum"
    assert found.training["best_score"] > 0.0


@pytest.mark.parametrize("consent", [False, True])
def test_the_base_may_be_gone_once_training_has_begun(
    consent: bool, config: dict[str, Any], train: Train, base: Path
) -> None:
    tuned = starting_from(config, package_path="base.nequip.zip", trust_code=consent)
    assert train(tuned, "whole", "trainer.max_epochs=2") == 0
    assert train(tuned, "first") == 0
    expected = outputs(sole("first/last.ckpt", trust_code=consent))
    base.unlink()
    found = outputs(sole("first/last.ckpt", trust_code=consent))
    assert torch.equal(found["forces"], expected["forces"])
    # Restarting takes everything from the checkpoint, consent apart.
    ckpt = "++ckpt_path=first/last.ckpt"
    assert train(tuned, "rest", "trainer.max_epochs=2", ckpt) == 0
    first, second = (
        torch.load(f"{name}/last.ckpt", weights_only=True) for name in ("whole", "rest")
    )
    for name, value in first["state_dict"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second["state_dict"][name]), name
    assert list(second[BASES_KEY]["packages"]) == list(first[BASES_KEY]["packages"])


def test_a_chain_of_checkpoints_needs_no_file_but_the_last(
    config: dict[str, Any], train: Train, base: Path, tmp_path: Path
) -> None:
    assert train(starting_from(config, package_path="base.nequip.zip"), "one") == 0
    identity = PackageReader(base).identity
    next_model = {
        "_target_": "nequip.model.modify",
        "modifiers": [{"modifier": "modify_PerTypeScaleShift", "shifts": {"Cu": 1.0}}],
        "model": {
            "_target_": "nequip.model.ModelFromCheckpoint",
            "checkpoint_path": "one/best.ckpt",
        },
    }
    two = starting_from(config)
    two["training_module"]["model"] = next_model
    assert train(two, "two") == 0
    three = starting_from(config)
    three["training_module"]["model"] = {
        "_target_": "nequip.model.ModelFromCheckpoint",
        "checkpoint_path": "two/best.ckpt",
    }
    assert train(three, "three") == 0
    expected = outputs(sole("three/best.ckpt"))
    kept = shutil.copy("three/best.ckpt", tmp_path / "kept.ckpt")
    for gone in ("one", "two", "three"):
        shutil.rmtree(gone)
    base.unlink()
    found = load_checkpoint(kept)
    assert torch.equal(outputs(found.models["sole_model"])["forces"], expected["forces"])
    assert found.parent is not None
    assert (found.parent.relation, found.parent.format) == ("fine-tuned", None)
    relations = [(step["relation"], step["format"]) for step in found.parent.steps]
    assert relations == [("fine-tuned", None), ("fine-tuned", 3)]
    assert found.parent.steps[-1]["digest"] == identity


def test_a_changed_base_is_not_taken_for_the_one_that_was_used(
    config: dict[str, Any], train: Train, base: Path
) -> None:
    assert train(starting_from(config, package_path="base.nequip.zip"), "tuned") == 0
    expected = outputs(sole("tuned/best.ckpt"))
    other = copy.deepcopy(config)
    other["training_module"]["model"] |= {"num_layers": 2, "seed": 9}
    assert train(other, "other") == 0
    build_package(load_checkpoint("other/best.ckpt"), base)
    assert torch.equal(outputs(sole("tuned/best.ckpt"))["forces"], expected["forces"])


def test_a_checkpoint_cannot_consent_to_its_own_code(
    config: dict[str, Any], train: Train, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = starting_from(config, package_path="base.nequip.zip", trust_code=True, load="snapshot")
    assert train(tuned, "tuned") == 0
    with pytest.raises(TrustError, match="no consent to run it"):
        load_checkpoint("tuned/best.ckpt")
    assert importer_of(sole("tuned/best.ckpt", trust_code=True)) is not None
    # Nor does a restart take the consent from the checkpoint: the config has to give it.
    del tuned["training_module"]["model"]["trust_code"]
    capsys.readouterr()
    assert train(tuned, "rest", "trainer.max_epochs=2", "++ckpt_path=tuned/last.ckpt") == 1
    printed = capsys.readouterr().err
    assert "nequip-package audit" in printed
    assert "trust_code: true" in printed


def test_a_config_is_told_what_of_the_package_does_not_fit(
    config: dict[str, Any], train: Train, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = starting_from(config, package_path="base.nequip.zip")
    assert train(tuned, "a", "model_type_names=[Cu, Au]") == 1
    assert "atom types would be mixed up" in capsys.readouterr().err
    assert train(tuned, "a", "cutoff_radius=3.0") == 1
    assert "the model would miss neighbours" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["0.10.0", "0.14.0", "0.19.1"])
@pytest.mark.filterwarnings("ignore")  # raised by the code in the package
def test_training_goes_on_from_a_package_that_nequip_made(
    version: str,
    config: dict[str, Any],
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = tmp_path / "nequip.nequip.zip"
    with (
        zipfile.ZipFile(REFERENCE / version / "basic.nequip.zip") as source,
        zipfile.ZipFile(package, "w") as sink,
    ):
        for entry in source.infolist():
            sink.writestr(entry.filename, source.read(entry))
    tuned = starting_from(config, package_path=str(package))
    arguments = ("model_type_names=[Cu, Au]", "cutoff_radius=4.0")
    assert train(tuned, "refused", *arguments) == 1
    assert "nequip-package audit" in capsys.readouterr().err
    tuned["training_module"]["model"]["trust_code"] = True
    assert train(tuned, "still", *arguments, "training_module.optimizer.lr=0.0") == 0
    start = load_package(package, trust_code=True).models["sole_model"]
    assert_same(sole("still/best.ckpt", trust_code=True), start)
    assert train(tuned, "tuned", *arguments) == 0
    package.unlink()
    found = load_checkpoint("tuned/last.ckpt", trust_code=True)
    assert differs(found.models["sole_model"], start)
    assert found.parent is not None
    assert found.parent.format in (1, 2)
    assert found.parent.versions["nequip"] == version
    again = build_package(found, tmp_path / "again.nequip.zip")
    atoms = ase.io.read("frames.xyz", "0")
    energies = [
        make(path, trust_code=True).get_potential_energy(atoms)
        for make, path in (
            (NequIPCalculator.from_checkpoint, "tuned/last.ckpt"),
            (NequIPCalculator.from_package, again),
        )
    ]
    assert energies[0] == pytest.approx(energies[1], abs=TOLERANCE)
    ckpt = "++ckpt_path=tuned/last.ckpt"
    assert train(tuned, "rest", *arguments, "trainer.max_epochs=2", ckpt) == 0
    assert load_checkpoint("rest/last.ckpt", trust_code=True).training["epoch"] == 1


def test_training_from_a_checkpoint_of_own_code_is_known_here(
    config: dict[str, Any],
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "own_builders.py").write_text(
        "from nequip_model.builder import model_builder\n"
        "from nequip_model.gnn import NequIPGNNModel\n"
        "@model_builder(extends=NequIPGNNModel)\n"
        "def OwnModel(**kwargs):\n"
        "    return NequIPGNNModel(**kwargs)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config["training_module"]["model"]["_target_"] = "own_builders.OwnModel"
    caplog.set_level(logging.WARNING)
    assert train(config, "own") == 0
    assert load_checkpoint("own/best.ckpt").models["sole_model"].is_graph_model
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "another machine"))
    with pytest.raises(TrustError, match=r"names 'own_builders\.OwnModel'.*--trust-code"):
        load_checkpoint("own/best.ckpt")
    assert load_checkpoint("own/best.ckpt", trust_code=True).models["sole_model"].is_graph_model


def test_shifts_and_a_new_element_are_packaged_and_compiled_without_the_base(
    config: dict[str, Any], train: Train, base: Path, tmp_path: Path
) -> None:
    frames = ase.io.read("frames.xyz", ":")
    for atoms in frames[::2]:
        results = dict(atoms.calc.results)
        atoms.symbols[0] = "Pt"
        atoms.calc = SinglePointCalculator(atoms, **results)
    ase.io.write("frames.xyz", frames)
    tuned = starting_from(config)
    tuned["model_type_names"] = ["Au", "Cu", "Pt"]
    tuned["training_module"] |= {
        "model": {
            "_target_": "nequip_model.new_types.ModelWithNewTypes",
            "new_types": {"Pt": "Au"},
            "model": {"_target_": "nequip.model.ModelFromPackage", "package_path": str(base)},
        },
        "energy_shifts": "least_squares",
        "frozen": ["layer0"],
    }
    assert train(tuned, "tuned") == 0
    base.unlink()
    shutil.rmtree("base")
    found = load_checkpoint("tuned/best.ckpt")
    model = found.models["sole_model"]
    assert found.parent is not None
    assert found.parent.relation == "fine-tuned"
    package = build_package(found, tmp_path / "tuned.nequip.zip")
    modifiers = PackageReader(package).metadata["modifiers"]["sole_model"]
    assert "modify_PerTypeScaleShift" in str(modifiers)
    compiled = tmp_path / "tuned.nequip.pth"
    words = [str(package), str(compiled), "--mode", "torchscript", "--target", "ase"]
    assert compile_main([*words, "--device", "cpu"]) == 0
    atoms = ase.io.read("frames.xyz", "0")
    assert "Pt" in atoms.get_chemical_symbols()
    energies = [
        make(path).get_potential_energy(atoms)
        for make, path in (
            (NequIPCalculator.from_checkpoint, "tuned/best.ckpt"),
            (NequIPCalculator.from_package, package),
            (NequIPCalculator.from_compiled_model, compiled),
        )
    ]
    assert energies == pytest.approx([energies[0]] * 3, abs=1e-10)
    assert list(model.type_names) == ["Au", "Cu", "Pt"]
