"""A small model, its checkpoint and its package, made once a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nequip_core.saved_model import SavedModel
from nequip_model.checkpoint import CHECKPOINT_VERSION, VERSION_KEY, build_models
from nequip_package.build import build_package

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


@pytest.fixture(scope="session")
def saved() -> SavedModel:
    models = build_models(MODEL_CONFIG).eval()
    return SavedModel(models, TRAINING_CONFIG, {"torch": "2.0.0"}, Path("small.ckpt"))


@pytest.fixture(scope="session")
def checkpoint(saved: SavedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint as ``nequip-train`` writes it, without the optimizer's part."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.ckpt"
    state = {f"model.{name}": value for name, value in saved.models.state_dict().items()}
    content = {
        VERSION_KEY: CHECKPOINT_VERSION,
        "state_dict": {**state, "run_stage": torch.tensor(0)},
        "hyper_parameters": {
            "model": MODEL_CONFIG,
            "num_datasets": {"train": 1, "val": 1, "test": 0},
            "info_dict": {"versions": {"torch": "2.0.0"}, **TRAINING_CONFIG},
        },
    }
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def package(saved: SavedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_package(saved, tmp_path_factory.mktemp("package") / "small.nequip.zip")
