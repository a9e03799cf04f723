"""Packages of an extension's models: read without the extension, modified and packaged again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nequip_core.archive.loading import load_package
from nequip_core.archive.modes import packaging_modes
from nequip_core.archive.reader import PackageReader
from nequip_core.plugins import import_extensions
from nequip_core.saved_model import SavedModel
from nequip_core.synthetic import synthetic_frame
from nequip_model.checkpoint import build_models
from nequip_package.build import build_package
from nequip_package.facade import walk_models
from nequip_package.packageability import check_before_training
from nequip_package.pitfalls import advice
from nequip_package.rules import collect_rules

TYPES = ["H", "C", "O"]
CONFIG: dict[str, Any] = {
    "_target_": "nequip_template.model.TemplateModel",
    "seed": 5,
    "model_dtype": "float64",
    "type_names": TYPES,
    "r_max": 4.0,
    "per_type_energy_shifts": {"H": -1.0, "C": -2.0, "O": -3.0},
}
# Runs where neither the extension nor any model code of the environment can be imported.
ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocked())
"""
PREDICT = """
import json, torch
from nequip_core.archive.loading import load_package
from nequip_core.synthetic import synthetic_frame

model = load_package(sys.argv[1], load="snapshot", trust_code=True).models["sole_model"]
frame = synthetic_frame(["H", "C", "O"], 4.0)
cold = model(dict(frame))
frame["temperature"] = torch.tensor([[1.0]], dtype=torch.float64)
print(json.dumps([cold["forces"].tolist(), model(frame)["forces"].tolist()]))
"""
COMMAND = "from nequip_package.command import main\nsys.exit(main(sys.argv[1:]))\n"
# The writer is there, and asks nequip-model for its rules.
EXTENSION = ("nequip_template", "nequip_train", "nequip", "e3nn")
EVERYTHING = ("nequip_template", "nequip_model", "nequip_package", "nequip_train", "nequip", "e3nn")


def run_alone(
    code: str, *arguments: object, site: Path | None, blocked: tuple[str, ...] = EVERYTHING
) -> subprocess.CompletedProcess[str]:
    """Run code in a process that has `site` on its path but none of the blocked modules."""
    environment = {**os.environ, "PYTHONPATH": str(site or ""), "OMP_NUM_THREADS": "1"}
    program = ALONE.replace("BLOCKED", repr(blocked)) + code
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def predicted(path: Path, site: Path) -> list[torch.Tensor]:
    """Return the forces, cold and warm, that a package predicts without its extension."""
    result = run_alone(PREDICT, path, site=site)
    assert result.returncode == 0, result.stderr
    return [torch.tensor(value, dtype=torch.float64) for value in json.loads(result.stdout)]


@pytest.fixture(scope="module")
def saved() -> SavedModel:
    config = {"training_module": {"model": CONFIG}}
    return SavedModel(build_models(CONFIG).eval(), config, {}, Path("template.ckpt"))


@pytest.fixture(scope="module")
def package(saved: SavedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
    try:
        return build_package(saved, tmp_path_factory.mktemp("package") / "template.nequip.zip")
    finally:
        patch.undo()


def expected(saved: SavedModel) -> list[torch.Tensor]:
    model = saved.models["sole_model"]
    frame = synthetic_frame(TYPES, 4.0)
    warm = {**frame, "temperature": torch.tensor([[1.0]], dtype=torch.float64)}
    forces = [model(dict(data))["forces"] for data in (frame, warm)]
    assert float(forces[0].detach().abs().max()) > 1e-2, "forces too small to judge"
    return forces


def test_entry_points_are_those_of_the_built_wheel(sites: dict[str, Path]) -> None:
    import nequip_template

    assert Path(nequip_template.__file__).is_relative_to(sites["template"])
    assert "nequip_template" in import_extensions()
    rules = collect_rules()
    assert "nequip_template" in rules.internal
    assert "template_kernels" in rules.external
    assert rules.requirements["template_kernels"] == "<2,>=1.2"
    assert packaging_modes()["template"] == ["eager"]


def test_model_of_the_template_passes_the_checks_before_training(saved: SavedModel) -> None:
    assert check_before_training(saved.models) == []
    assert advice(walk_models(saved.models, collect_rules())) == []


def test_package_holds_the_extension_and_names_its_library(package: Path) -> None:
    reader = PackageReader(package)
    sources = set(reader.sources())
    assert {"nequip_template.pair_energy", "nequip_template.fields", "template_plots"} <= sources
    # Neither the builder's file nor the transform is a part of the model.
    assert not sources & {"nequip_template.model", "nequip_template.transform"}
    assert not any(name.startswith("template_kernels") for name in sources)
    assert reader.metadata["external_modules"]["template_kernels"] == "1.2.0"
    assert reader.metadata["external_requirements"]["template_kernels"] == "<2,>=1.2"
    assert reader.metadata["versions"]["nequip-template"] == "0.1.0"


def test_package_predicts_without_the_extension(
    saved: SavedModel, package: Path, sites: dict[str, Path]
) -> None:
    for found, value in zip(predicted(package, sites["library"]), expected(saved), strict=True):
        torch.testing.assert_close(found, value, rtol=0.0, atol=1e-12)


def test_absent_library_is_named_before_anything_runs(package: Path) -> None:
    result = run_alone(PREDICT, package, site=None)
    assert result.returncode == 1
    assert "MissingDependencyError" in result.stderr
    assert "template_kernels" in result.stderr
    assert "<2,>=1.2" in result.stderr or "1.2.0" in result.stderr


def test_library_of_another_version_is_named_with_both(
    package: Path, sites: dict[str, Path], tmp_path: Path
) -> None:
    # The installed library under a version that the template has not seen.
    for file in sites["library"].rglob("*"):
        target = tmp_path / str(file.relative_to(sites["library"])).replace("1.2.0", "2.1.0")
        if file.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes().replace(b"Version: 1.2.0", b"Version: 2.1.0"))
    result = run_alone(PREDICT, package, site=tmp_path)
    assert result.returncode == 1
    assert "template_kernels" in result.stderr
    assert "2.1.0" in result.stderr
    assert "<2,>=1.2" in result.stderr


def test_mocked_library_raises_when_it_is_used(package: Path) -> None:
    model = load_package(package, load="snapshot", trust_code=True).models["sole_model"]
    (energy,) = [m for m in model.modules() if type(m).__name__ == "PairEnergy"]
    with pytest.raises(NotImplementedError, match="template_plots"):
        energy.plot()


def test_package_is_rebuilt_where_the_extension_is_installed(
    saved: SavedModel, package: Path
) -> None:
    model = load_package(package, load="rebuild").models["sole_model"]
    assert type(model).__module__ == "nequip_model.nn.graph_model"
    frame = synthetic_frame(TYPES, 4.0)
    torch.testing.assert_close(
        model(dict(frame))["forces"], expected(saved)[0], rtol=0.0, atol=1e-12
    )


def test_package_is_modified_without_the_extension(
    saved: SavedModel, package: Path, sites: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "stronger.nequip.zip"
    command = ("modify", package, output, "--modifier", "scale_PairEnergy", "strength=2.0")
    result = run_alone(COMMAND, *command, "--trust-code", site=sites["library"], blocked=EXTENSION)
    assert result.returncode == 0, result.stderr
    for found, value in zip(predicted(output, sites["library"]), expected(saved), strict=True):
        torch.testing.assert_close(found, 2.0 * value, rtol=0.0, atol=1e-12)
    (step, *_) = PackageReader(output).lineage
    assert step["relation"] == "modified"
    assert "scale_PairEnergy" in json.dumps(step["details"])


def test_package_is_packaged_again_with_the_code_that_it_has(
    saved: SavedModel, package: Path, sites: dict[str, Path], tmp_path: Path
) -> None:
    second = tmp_path / "second.nequip.zip"
    for source, output in ((package, second), (second, tmp_path / "third.nequip.zip")):
        command = ("build", source, output, "--trust-code")
        result = run_alone(COMMAND, *command, site=sites["library"], blocked=EXTENSION)
        assert result.returncode == 0, result.stderr
        before, after = PackageReader(package), PackageReader(output)
        assert set(after.sources()) == set(before.sources())
        name = before.sources()["nequip_template.pair_energy"]
        assert after.read_bytes(name) == before.read_bytes(name)
        assert after.metadata["external_modules"] == before.metadata["external_modules"]
        assert after.metadata["external_requirements"] == before.metadata["external_requirements"]
        found = predicted(output, sites["library"])[0]
        torch.testing.assert_close(found, expected(saved)[0], rtol=0.0, atol=1e-12)


def test_training_starts_from_a_package_without_the_extension(package: Path) -> None:
    config = {
        "_target_": "nequip.model.ModelFromPackage",
        "package_path": str(package),
        "load": "snapshot",
        "trust_code": True,
    }
    models = build_models(config)
    assert check_before_training(models) == []
    (energy,) = [m for m in models.modules() if type(m).__name__ == "PairEnergy"]
    assert type(energy).__module__.startswith("<torch_package_")
