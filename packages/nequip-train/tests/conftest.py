"""Tiny data and configs that the tests of training share."""

from __future__ import annotations

import copy
import csv
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ase.io
import lightning
import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from lightning.pytorch.loggers import Logger

from nequip_train.data.datamodules import NequIPDataModule

TRANSFORMS = "nequip.data.transforms"
CONFIG: dict[str, Any] = {
    "run": ["train", "val", "test"],
    "cutoff_radius": 3.5,
    "model_type_names": ["Al", "Cu"],
    "data": {
        "_target_": "nequip.data.datamodule.ASEDataModule",
        "seed": 456,
        "split_dataset": {"file_path": "data.xyz", "train": 6, "val": 3, "test": 3},
        "transforms": [
            {
                "_target_": f"{TRANSFORMS}.ChemicalSpeciesToAtomTypeMapper",
                "model_type_names": "${model_type_names}",
            },
            {"_target_": f"{TRANSFORMS}.NeighborListTransform", "r_max": "${cutoff_radius}"},
        ],
        "train_dataloader": {
            "_target_": "torch.utils.data.DataLoader",
            "batch_size": 2,
            "shuffle": True,
        },
        "val_dataloader": {"_target_": "torch.utils.data.DataLoader", "batch_size": 3},
        "test_dataloader": "${data.val_dataloader}",
        "stats_manager": {
            "_target_": "nequip.data.CommonDataStatisticsManager",
            "type_names": "${model_type_names}",
            "dataloader_kwargs": {"batch_size": 4},
        },
    },
    "trainer": {
        "_target_": "lightning.Trainer",
        "accelerator": "cpu",
        "max_epochs": 2,
        "log_every_n_steps": 1,
        # Which one is Lightning's default depends on what is installed.
        "logger": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "."},
        "callbacks": [
            {
                "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                "dirpath": "${hydra:runtime.output_dir}",
                "monitor": "val0_epoch/weighted_sum",
                "filename": "best",
                "save_last": True,
            }
        ],
    },
    "training_module": {
        "_target_": "nequip.train.EMALightningModule",
        "loss": {
            "_target_": "nequip.train.EnergyForceStressLoss",
            "coeffs": {"total_energy": 1.0, "forces": 1.0, "stress": 1.0},
        },
        "val_metrics": {
            "_target_": "nequip.train.EnergyForceStressMetrics",
            "coeffs": {"total_energy_mae": 1.0, "forces_mae": 1.0},
        },
        "test_metrics": "${training_module.val_metrics}",
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
        "model": {
            "_target_": "nequip.model.NequIPGNNModel",
            "seed": 456,
            "model_dtype": "float32",
            "type_names": "${model_type_names}",
            "r_max": "${cutoff_radius}",
            "num_layers": 1,
            "num_features": 2,
            "l_max": 1,
            "radial_mlp_width": 8,
            "avg_num_neighbors": "${training_data_stats:num_neighbors_mean}",
            "per_type_energy_shifts": "${training_data_stats:per_atom_energy_mean}",
            "per_type_energy_scales": "${training_data_stats:per_type_forces_rms}",
        },
    },
}


def pytest_configure(config: pytest.Config) -> None:
    """Ignore what Lightning and torchmetrics warn of in every process that trains."""
    for message in (
        # Frames are prepared in the training process; more workers are the user's choice.
        "ignore:.*does not have many workers",
        # Lightning's use of a name that torch has deprecated.
        "ignore:.*LeafSpec",
        # A continued run writes to a folder of its own, as intended.
        "ignore:The dirpath has changed from",
    ):
        config.addinivalue_line("filterwarnings", message)


@pytest.fixture(autouse=True)
def statistics_cache(tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the user's cache of statistics; return it."""
    folder: Path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NEQUIP_STATISTICS_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def frame_cache(tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the user's cache of frames; return it."""
    folder: Path = tmp_path_factory.mktemp("frames")
    monkeypatch.setenv("NEQUIP_FRAME_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def alloy() -> list[Any]:
    """Twelve rattled cells of AlCu3 with EMT's energy, forces and stress."""
    generator = np.random.default_rng(0)
    frames = []
    for _ in range(12):
        atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
        atoms.symbols[0] = "Al"
        atoms.positions += generator.normal(scale=0.1, size=(4, 3))
        atoms.calc = EMT()
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alloy: list[Any]) -> Path:
    """A fresh current folder with ``data.xyz``."""
    ase.io.write(tmp_path / "data.xyz", alloy)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def base_config() -> dict[str, Any]:
    """The config of `config`, for fixtures that live longer than a test; to be copied."""
    return CONFIG


@pytest.fixture(scope="session")
def plain_config() -> dict[str, Any]:
    """A small complete config, to be left as it is."""
    return CONFIG


@pytest.fixture
def config(plain_config: dict[str, Any]) -> dict[str, Any]:
    """A small complete config, to be changed by the test."""
    return copy.deepcopy(plain_config)


@pytest.fixture
def train(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``train(config, *arguments)``: run the command in the workplace, return its exit code.

    Without its report, whose figures take seconds, unless the config says something of it.
    """
    from nequip_train.command import main
    from nequip_train.run_folder import session

    def run(config: dict[str, Any], *arguments: str) -> int:
        (workplace / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        with warnings.catch_warnings():
            # Rich and Lightning leave open what the garbage collector closes.
            warnings.simplefilter("ignore", ResourceWarning)
            with monkeypatch.context() as patch:
                if "run_folder" not in config:
                    patch.setattr(session, "write_report", lambda folder: folder)
                return main(["config.yaml", "hydra.run.dir=out", *arguments])

    return run


@pytest.fixture
def logged(workplace: Path) -> Callable[[], dict[str, list[float]]]:
    """``logged()``: the values of the latest run by name, in the order they were logged."""

    def read() -> dict[str, list[float]]:
        versions = list((workplace / "lightning_logs").glob("version_*"))
        latest = max(versions, key=lambda folder: int(folder.name.removeprefix("version_")))
        values: dict[str, list[float]] = {}
        with (latest / "metrics.csv").open() as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value:
                        values.setdefault(name, []).append(float(value))
        return values

    return read


_SMALL_TRANSFORMS = [
    {
        "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
        "model_type_names": ["Cu"],
    },
    {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": 3.5},
]
_SMALL_MODEL = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 1,
    "model_dtype": "float64",
    "type_names": ["Cu"],
    "r_max": 3.5,
    "num_layers": 2,
    "num_features": 2,
    "radial_mlp_width": 4,
    "avg_num_neighbors": 12.0,
}
_SMALL_MODULE = {
    "model": _SMALL_MODEL,
    "num_datasets": {"train": 1, "val": 2, "test": 1, "predict": 0},
    "loss": {
        "_target_": "nequip.train.EnergyForceLoss",
        "coeffs": {"total_energy": 1.0, "forces": 3.0},
    },
    "val_metrics": {"_target_": "nequip.train.EnergyForceMetrics"},
    "test_metrics": {"_target_": "nequip.train.EnergyForceMetrics"},
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
}


def _dataset(frames: int, seed: int) -> dict[str, Any]:
    """Return the config of frames of two atoms of copper."""
    return {
        "_target_": "nequip.data.dataset.EMTTestDataset",
        "transforms": _SMALL_TRANSFORMS,
        "supercell": (1, 1, 1),
        "num_frames": frames,
        "seed": seed,
    }


def _small_data() -> NequIPDataModule:
    """Return six training frames, validation sets of three and two, and three test frames."""
    return NequIPDataModule(
        seed=1,
        train_dataset=_dataset(6, 1),
        val_dataset=[_dataset(3, 2), _dataset(2, 3)],
        test_dataset=_dataset(3, 4),
        train_dataloader={"batch_size": 2},
        val_dataloader={"batch_size": 3},
        test_dataloader={"batch_size": 2},
    )


def _training_module(kind: Callable[..., Any], **changes: Any) -> Any:
    """Return a training module of a class, with changed arguments."""
    return kind(**{**copy.deepcopy(_SMALL_MODULE), **changes})


def _trainer(callbacks: Any = (), **arguments: Any) -> lightning.Trainer:
    """Return a trainer that writes nothing."""
    defaults = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "inference_mode": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return lightning.Trainer(callbacks=list(callbacks), **{**defaults, **arguments})


class _Recorder(Logger):
    """A logger that keeps everything: rows of (step, values by name)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    name = "recorder"
    version = 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep a row."""
        self.rows.append((step or 0, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep nothing of the kind."""

    def of(self, name: str) -> list[tuple[int, float]]:
        """Return the steps and values of one name."""
        return [(step, values[name]) for step, values in self.rows if name in values]


@pytest.fixture
def small() -> Any:
    """A training of seconds without the command: one element, two validation sets, one test set."""
    return SimpleNamespace(
        data=_small_data,
        module=_training_module,
        trainer=_trainer,
        recorder=_Recorder,
        dataset=_dataset,
        model=_SMALL_MODEL,
        arguments=_SMALL_MODULE,
    )
