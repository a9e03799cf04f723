"""A model describes itself in plain JSON, and the same model is built from that."""

import json

import pytest
import torch

from nequip_core.errors import ConfigError, PluginError
from nequip_core.plugins import ARCHITECTURES, load_plugin, plugin_names
from nequip_model.architecture import build_described, describe
from nequip_model.builder import model_builder
from nequip_model.presets import PresetNequIPGNNModel


def test_the_same_model_is_built_from_its_description_by_way_of_json(build, crystal):
    model = build(seed=11, per_type_energy_shifts={"H": 1.0, "C": 2.0, "O": 3.0})
    again = build_described(json.loads(json.dumps(describe(model))))
    expected, found = model.state_dict(), again.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert again.metadata == model.metadata
    assert describe(again) == describe(model)
    assert torch.equal(model(crystal)["forces"], again.eval()(crystal)["forces"])


def test_a_description_has_every_argument_also_those_left_at_their_defaults(build):
    description = describe(build())
    assert description["architecture"] == "NequIPGNNModel"
    assert description["version"] == 1
    assert description["arguments"]["num_bessels"] == 8
    assert description["arguments"]["parity"] is True
    assert {"seed", "model_dtype", "type_names", "r_max"} <= set(description["arguments"])


def test_a_preset_is_described_by_its_name_and_what_was_given_besides():
    model = PresetNequIPGNNModel(
        seed=1,
        model_dtype="float32",
        type_names=["Cu"],
        r_max=4.0,
        avg_num_neighbors=10.0,
        preset="s",
        num_features=[8, 4],
    )
    arguments = describe(model)["arguments"]
    assert arguments["preset"] == "s"
    assert arguments["num_features"] == [8, 4]
    assert "num_layers" not in arguments
    again = build_described(describe(model))
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())


def test_a_description_is_a_copy(build):
    model = build()
    describe(model)["arguments"]["r_max"] = 99.0
    assert describe(model)["arguments"]["r_max"] != 99.0


def test_every_registered_architecture_is_a_builder_of_that_name_with_a_version():
    names = plugin_names(ARCHITECTURES)
    assert "NequIPGNNModel" in names
    for name in names:
        builder = load_plugin(ARCHITECTURES, name)
        assert builder.architecture_name == name
        assert builder.architecture_version >= 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"version": 2}, ConfigError, "version 2 .* version 1 is installed"),
        ({"architecture": "NequIPGNModel"}, PluginError, "did you mean 'NequIPGNNModel'"),
        ({"architecture": "torch.nn.Linear", "version": None}, ConfigError, "not a model builder"),
        ({"arguments": {}}, ConfigError, "mandatory model arguments"),
    ],
)
def test_a_description_that_cannot_be_built_says_why(build, changes, error, message):
    with pytest.raises(error, match=message):
        build_described({**describe(build()), **changes})


def test_a_description_without_its_parts_is_refused():
    with pytest.raises(ConfigError, match=r"lacks \['arguments'\]"):
        build_described({"architecture": "NequIPGNNModel"})


@model_builder
def _from_a_module(*, type_names, r_max, inner):
    """Build a model around a module, which is not plain data."""
    return inner


def test_a_model_built_from_an_object_has_no_description():
    model = _from_a_module(
        seed=1, model_dtype="float64", type_names=["H"], r_max=2.0, inner=torch.nn.Identity()
    )
    with pytest.raises(ConfigError, match="not plain data"):
        describe(model)
