"""Presets are named sizes; what is given replaces what they say."""

import pytest

from nequip_core.errors import ConfigError
from nequip_model.architecture import build_described, describe
from nequip_model.gnn import NequIPGNNModel
from nequip_model.presets import PRESETS, PresetNequIPGNNModel

COMMON = {
    "seed": 1,
    "model_dtype": "float32",
    "type_names": ["Cu"],
    "r_max": 5.0,
    "avg_num_neighbors": 20.0,
}


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("preset", "number"), [("S", 613_536), ("M", 3_186_848)])
def test_presets_have_the_documented_numbers_of_parameters(preset, number):
    assert parameters(PresetNequIPGNNModel(preset=preset, **COMMON)) == number
    two = PresetNequIPGNNModel(preset=preset, **{**COMMON, "type_names": ["Cu", "Au"]})
    assert parameters(two) == number + 32


def test_a_preset_is_the_network_of_its_arguments():
    preset = PresetNequIPGNNModel(preset="s", **COMMON)
    network = NequIPGNNModel(**PRESETS["S"], **COMMON)
    own = network.state_dict()
    assert list(preset.state_dict()) == list(own)
    assert all(value.equal(own[key]) for key, value in preset.state_dict().items())


def test_an_argument_that_is_given_replaces_that_of_the_preset():
    model = PresetNequIPGNNModel(preset="L", **COMMON, num_layers=1, num_features=[4, 3, 2, 2])
    assert model.model.energy.type_embedding.weight.shape == (1, 32)
    assert not hasattr(model.model.energy, "layer1")
    assert parameters(model) < 20_000


def test_a_preset_is_described_and_built_again():
    model = PresetNequIPGNNModel(preset="s", **COMMON, num_features=[4, 2])
    again = build_described(describe(model)).state_dict()
    assert all(value.equal(again[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "XXL"}, r"preset must be one of \['S', 'M', 'L', 'XL'\]"),
        ({}, "needs the argument 'preset'"),
        ({"preset": "S", "num_layer": 2}, "did you mean 'num_layers'"),
        ({"preset": "S", "avg_num_neighbors": None}, "avg_num_neighbors must be specified"),
    ],
)
def test_a_wrong_preset_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        PresetNequIPGNNModel(**{**COMMON, **changes})
