"""A small model, its checkpoint and its package, made once a session."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nequip_core.archive.embedded import recording
from nequip_core.archive.trust import trusting
from nequip_core.saved_model import SavedModel
from nequip_model.checkpoint import BASES_KEY, CHECKPOINT_VERSION, VERSION_KEY, build_models
from nequip_package.build import build_package

REFERENCE = Path(__file__).parents[3] / "tests" / "golden" / "reference"
MODEL_CONFIG: dict[str, Any] = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 7,
    "model_dtype": "float64",
    "type_names": ["Cu", "Au"],
    "r_max": 4.0,
    "num_layers": 2,
    "l_max": 2,
    "num_features": 4,
    "radial_mlp_width": 8,
    "avg_num_neighbors": 20.0,
    "per_type_energy_shifts": {"Cu": -1.5, "Au": -2.5},
}
TRAINING_CONFIG: dict[str, Any] = {
    "data": {"seed": 3, "split_dataset": {"file_path": "alloy.xyz"}},
    "trainer": {"max_epochs": 1},
    "runs": ["train"],
    "training_module": {"model": MODEL_CONFIG},
}


@pytest.fixture(scope="session", autouse=True)
def own_memory_of_built_packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what these tests build out of the list of packages that the user built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patch.delenv("NEQUIP_TRUST_CODE", raising=False)
        patch.delenv("SOURCE_DATE_EPOCH", raising=False)
        yield


@pytest.fixture(scope="session")
def saved() -> SavedModel:
    models = build_models(MODEL_CONFIG).eval()
    return SavedModel(models, TRAINING_CONFIG, {"torch": "2.0.0"}, Path("small.ckpt"))


@pytest.fixture(scope="session")
def checkpoint(saved: SavedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint as ``nequip-train`` writes it, without the optimizer's part."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.ckpt"
    return write_checkpoint(path, saved.models, MODEL_CONFIG)


def write_checkpoint(
    path: Path,
    models: torch.nn.ModuleDict,
    model_config: dict[str, Any],
    bases: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint of `models`, with what it carries of the files that it started from."""
    state = {f"model.{name}": value for name, value in models.state_dict().items()}
    content = {
        VERSION_KEY: CHECKPOINT_VERSION,
        "epoch": 2,
        "global_step": 30,
        "state_dict": {**state, "run_stage": torch.tensor(0)},
        "hyper_parameters": {
            "model": model_config,
            "num_datasets": {"train": 1, "val": 1, "test": 0},
            "info_dict": {"versions": {"torch": "2.0.0"}, **TRAINING_CONFIG},
        },
    }
    if bases is not None:
        content[BASES_KEY] = bases
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def fine_tune() -> Callable[..., Path]:
    """Return a function ``(base, checkpoint, trust_code=None) -> checkpoint``."""
    return _fine_tune


def _fine_tune(base: Path, checkpoint: Path, trust_code: bool | None = None) -> Path:
    """Write a checkpoint as of a training that started from the package `base`: other weights."""
    config = {"_target_": "nequip.model.ModelFromPackage", "package_path": str(base)}
    with recording() as record, trusting(trust_code):
        models = build_models(config)
    generator = torch.Generator().manual_seed(len(str(base)))
    with torch.no_grad():
        for parameter in models.parameters():
            if parameter.numel():
                noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.mul_(1.0 + 0.05 * noise.to(parameter.dtype))
    return write_checkpoint(checkpoint, models.eval(), config, record.bases)


@pytest.fixture(scope="session")
def package(saved: SavedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_package(saved, tmp_path_factory.mktemp("package") / "small.nequip.zip")


@pytest.fixture(scope="session")
def reference_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function ``(version, name="basic") -> path`` of packages that NequIP wrote.

    The copies in the repository are compressed, which NequIP itself never does.
    """
    folder = tmp_path_factory.mktemp("reference")

    def restore(version: str, name: str = "basic") -> Path:
        target = folder / version / f"{name}.nequip.zip"
        if target.exists():
            return target
        target.parent.mkdir(exist_ok=True)
        with (
            zipfile.ZipFile(REFERENCE / version / f"{name}.nequip.zip") as compressed,
            zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as stored,
        ):
            for entry in compressed.infolist():
                stored.writestr(zipfile.ZipInfo(entry.filename), compressed.read(entry))
        return target

    return restore


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a cache of the test's own, which is empty, as are its keys."""
    for name in ("NEQUIP_NO_CACHE", "NEQUIP_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NEQUIP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path, package: Path) -> Path:
    """Return the folder of a repository that holds the package as our-group/Alloy:1.0."""
    target = tmp_path / "models" / "our-group" / "Alloy" / "1.0.nequip.zip"
    target.parent.mkdir(parents=True)
    target.write_bytes(package.read_bytes())
    return tmp_path / "models"


@pytest.fixture
def serve(own_cache: Path, folder: Path) -> Iterator[Callable[..., str]]:
    """Return a function that serves the folder, with further arguments, and returns where."""
    pytest.importorskip("requests")
    pytest.importorskip("waitress")
    code = "import sys; from nequip_package.command import main; sys.exit(main(sys.argv[1:]))"
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> str:
        command = [sys.executable, "-c", code, "serve", str(folder), "--port", "0", *arguments]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        assert started[-1].stderr is not None
        return started[-1].stderr.readline().split()[-1]

    yield start
    for server in started:
        server.kill()
        server.communicate()


@pytest.fixture
def address(serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return where the folder is served, which clients ask."""
    address = serve()
    monkeypatch.setenv("NEQUIP_REPOSITORY", address)
    return address
