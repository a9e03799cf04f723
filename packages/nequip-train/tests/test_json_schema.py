"""The JSON schema of configs: valid, right about documented configs and about mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nequip_train.checking.json_schema import DIALECT, config_schema
from nequip_train.command import main

jsonschema = pytest.importorskip("jsonschema", reason="it is a tool of the tests, see noxfile.py")

ROOT = Path(__file__).parents[3]
CONFIGS = [ROOT / "tests" / "e2e" / "config.yaml", ROOT / "tools" / "demo" / "config.yaml"]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return config_schema()


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Any:
    return jsonschema.Draft7Validator(schema)


def places(validator: Any, config: Any) -> list[str]:
    """Return where the schema finds something wrong."""
    errors = validator.iter_errors(json.loads(json.dumps(config)))
    return sorted(".".join(map(str, error.absolute_path)) for error in errors)


def test_the_schema_is_one(schema):
    assert schema["$schema"] == DIALECT
    jsonschema.Draft7Validator.check_schema(schema)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_documented_configs_are_valid(path, validator):
    assert places(validator, yaml.safe_load(path.read_text())) == []


def test_the_config_of_the_tests_is_valid_whatever_it_uses(config, validator):
    assert places(validator, config) == []
    config["training_module"]["lr_scheduler"] = {
        "scheduler": {
            "_target_": "torch.optim.lr_scheduler.SequentialLR",
            "milestones": [2],
            "schedulers": [
                {"_target_": "torch.optim.lr_scheduler.LinearLR", "total_iters": 2},
                {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": "${run}"},
            ],
        },
        "interval": "epoch",
    }
    config["data"]["transforms"].append({"_target_": "own.Transform", "anything": 1})
    config["data"]["val_dataloader"] = {"batch_size": 2}
    config["my_own_variable"] = {"a": 1}
    config["training_module"]["train_metrics"] = None
    config["training_module"]["optimizer"]["param_groups"] = {"_target_": "own.groups"}
    assert places(validator, config) == []


def test_mistakes_are_found_where_they_are(config, validator):
    config["run"] = ["trian"]
    config["data"]["transforms"][1]["rmax"] = 2
    config["data"]["train_dataloader"]["batch_size"] = "five"
    config["trainer"]["max_epoch"] = 3
    config["trainer"]["callbacks"][0]["mode"] = "minimum"
    config["training_module"]["loss"]["coeffs"]["force"] = 1
    config["training_module"]["model"]["num_layers"] = "two"
    config["training_module"]["model"]["model_dtype"] = "float16"
    del config["training_module"]["model"]["seed"]
    assert places(validator, config) == [
        "data.train_dataloader.batch_size",
        "data.transforms.1",
        "run.0",
        "trainer",
        "trainer.callbacks.0.mode",
        "training_module.loss.coeffs",
        "training_module.model",
        "training_module.model.model_dtype",
        "training_module.model.num_layers",
    ]


def test_a_section_may_come_from_the_defaults_list_only(config, validator):
    del config["trainer"]
    assert places(validator, config) == [""]
    config["defaults"] = ["trainer_of_mine", "_self_"]
    assert places(validator, config) == []


def test_keys_are_explained(schema):
    model = schema["definitions"]["nequip.model.NequIPGNNModel"]["properties"]
    assert "number of interaction layers" in model["num_layers"]["description"]
    assert "highest degree" in model["l_max"]["description"]
    assert model["num_layers"]["else"]["else"] == {"type": "integer"}
    targets = schema["definitions"]["built"]["properties"]["_target_"]["anyOf"][0]["enum"]
    assert {"lightning.Trainer", "torch.optim.Adam", "nequip.train.EMALightningModule"} <= {
        *targets
    }


def test_the_command_writes_it_and_says_how_to_use_it(tmp_path, capsys, schema):
    file = tmp_path / "schema.json"
    assert main(["schema", str(file)]) == 0
    assert "yaml-language-server: $schema=" in capsys.readouterr().out
    assert json.loads(file.read_text()) == schema
    assert main(["schema", "a", "b"]) == 2
    assert main(["schema", "--what"]) == 2
    assert main(["schema", "--help"]) == 0
    assert "usage: nequip-train schema" in capsys.readouterr().out
