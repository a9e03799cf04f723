"""Objects from configs."""

from __future__ import annotations

import functools

import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_train.construction import accepted_arguments, build


def test_nested_configs_are_built_first():
    config = {
        "_target_": "torch.nn.Sequential",
        "_args_": [
            {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3},
            {"_target_": "torch.nn.Tanh", "_convert_": "all"},
        ],
    }
    built = build(config, "model")
    assert isinstance(built[0], torch.nn.Linear)
    assert build({"a": [config["_args_"][1]], "b": 1}, "x")["b"] == 1


def test_partial_and_not_recursive_configs_are_left_to_the_callee():
    tanh = {"_target_": "torch.nn.Tanh"}
    partial = build({"_target_": "builtins.dict", "_partial_": True, "a": 1}, "x")
    assert isinstance(partial, functools.partial)
    assert partial(b=2) == {"a": 1, "b": 2}
    assert build({"_target_": "builtins.dict", "_recursive_": False, "a": tanh}, "x") == {"a": tanh}


def test_documented_names_are_ours_without_the_facade():
    built = build({"_target_": "nequip.train.MeanSquaredError"}, "metric")
    assert type(built).__module__ == "nequip_train.metrics"


def test_injected_arguments_are_passed_as_they_are():
    marker = object()
    assert build({"_target_": "builtins.dict"}, "x", a=marker)["a"] is marker


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_target_": "torch.nn.Linearr"}, r"x._target_: .*did you mean 'Linear'"),
        ({"_target_": "torch.pi"}, "is not a class or function"),
        ({"_target_": "torch.nn.Tanh", "a": 1}, "x.a: Tanh has no argument 'a'"),
        ({"_target_": "torch.nn.Linear", "in_features": 1}, "x: Linear needs the argument 'out_"),
        (
            {"_target_": "torch.nn.Linear", "in_features": "a", "out_features": 1},
            r"x: Linear refused its arguments \(TypeError",
        ),
        ([{"_target_": "torch.nn.Tanh", "a": 1}], r"x\[0\].a"),
    ],
)
def test_what_is_wrong_is_said_with_the_key_path(config, message):
    with pytest.raises(ConfigError, match=message):
        build(config, "x")


def test_a_class_that_hands_arguments_on_takes_those_of_its_base():
    from nequip_train.modules import EMALightningModule

    names, required, is_open = accepted_arguments(EMALightningModule)
    assert {"ema_decay", "model", "loss"} <= set(names)
    assert {"model", "num_datasets"} <= set(required)
    assert not is_open


def test_what_a_foreign_class_gives_its_base_is_not_asked_of_the_config():
    from lightning.pytorch.loggers import TensorBoardLogger

    from nequip_train.modules import EMALightningModule

    assert accepted_arguments(TensorBoardLogger)[1] == ["save_dir"]
    assert {"model", "num_datasets"} <= set(accepted_arguments(EMALightningModule)[1])
