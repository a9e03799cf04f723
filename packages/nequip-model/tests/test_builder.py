"""Construction is pure, repeatable, and refuses wrong arguments with one clear message."""

import subprocess
import sys

import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_model.builder import model_builder
from nequip_model.gnn import FullNequIPGNNModel


def test_the_same_seed_gives_the_same_weights_whatever_the_ambient_state(build):
    first = build(seed=5).state_dict()
    torch.rand(17)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        second = build(seed=5).state_dict()
    finally:
        torch.set_default_dtype(before)
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = build(seed=6).state_dict()
    assert not torch.equal(
        first["model.energy.type_embedding.weight"], other["model.energy.type_embedding.weight"]
    )


@pytest.mark.parametrize("model_dtype", ["float32", "float64"])
def test_building_and_predicting_leave_global_state_alone(build, crystal, model_dtype):
    def state():
        return (
            torch.get_default_dtype(),
            torch.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.get_float32_matmul_precision(),
            torch.is_grad_enabled(),
        )

    before = state()
    build(model_dtype=model_dtype)(crystal)
    assert state() == before


def test_a_failing_construction_restores_dtype_and_random_state(build):
    before = torch.get_default_dtype(), torch.get_rng_state().tolist()
    with pytest.raises(ConfigError):
        build(polynomial_cutoff_p=1)
    assert (torch.get_default_dtype(), torch.get_rng_state().tolist()) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layer": 3}, "did you mean 'num_layers'"),
        ({"avg_num_neighbors": None}, "avg_num_neighbors must be specified"),
        ({"avg_num_neighbors": 0.0}, "must be positive"),
        ({"avg_num_neighbors": {"H": 1.0, "C": 2.0}}, r"lacks \['O'\]"),
        ({"per_type_energy_shifts": {"H": 1.0, "C": 2.0, "N": 3.0}}, "names the type 'N'"),
        ({"per_type_energy_shifts": [1.0, 2.0, 3.0]}, "got a list"),
        ({"per_type_energy_scales": float("nan")}, "must be finite"),
        ({"num_features": [4, 4, 4]}, r"l_max \+ 1 = 2 numbers, got 3"),
        ({"num_features": 0}, "positive integers"),
        ({"num_layers": 0}, "num_layers must be an integer, at least 1"),
        ({"l_max": -1}, "l_max must be an integer, at least 0"),
        ({"l_max": "two"}, "l_max must be an integer, at least 0, got 'two'"),
        ({"r_max": -1.0}, "r_max must be a positive number"),
        ({"polynomial_cutoff_p": 1}, "at least 2"),
        ({"type_names": ["H", "H", "O"]}, "unique"),
        ({"type_names": "HCO"}, "must be a list"),
        ({"type_names": ["my Cu"]}, "without white space"),
        ({"model_dtype": "float16"}, "model_dtype must be one of"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"readout_mlp_nonlinearity": "relu6"}, "readout_mlp_nonlinearity"),
        ({"compile_mode": "jit"}, "compile_mode"),
        ({"per_edge_type_cutoff": {"H": 5.0}}, "per_edge_type_cutoff of H must be in"),
        ({"per_edge_type_cutoff": {"N": 2.0}}, "names the type 'N'"),
    ],
)
def test_a_wrong_argument_is_named(build, changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_mandatory_arguments_are_named(build):
    with pytest.raises(ConfigError, match="mandatory model arguments"):
        FullNequIPGNNModel(type_names=["H"], r_max=4.0)
    with pytest.raises(ConfigError, match="needs the argument 'irreps_edge_sh'"):
        FullNequIPGNNModel(seed=1, model_dtype="float32", type_names=["H"], r_max=4.0)


def test_type_names_need_not_be_chemical_symbols(build):
    model = build(type_names=["my_Cu", "Cu2"], per_type_energy_shifts=None)
    assert model.type_names == ["my_Cu", "Cu2"]


def test_a_builder_inside_a_builder_returns_the_bare_module():
    @model_builder
    def inner(type_names, r_max):
        return torch.nn.Linear(len(type_names), 1)

    @model_builder
    def outer(type_names, r_max):
        assert torch.get_default_dtype() == torch.float64
        return torch.nn.Sequential(inner(type_names=type_names, r_max=r_max))

    model = outer(seed=1, model_dtype="float64", type_names=["A"], r_max=3.0)
    assert model.is_graph_model
    assert isinstance(model.model[0], torch.nn.Linear)
    assert model.model[0].weight.dtype == torch.float64


def test_metadata_is_text(build):
    model = build(per_edge_type_cutoff={"H": {"O": 2.0}})
    assert model.metadata == {
        "model_dtype": "float64",
        "type_names": "H C O",
        "num_types": "3",
        "r_max": "4.0",
        "per_edge_type_cutoff": "4.0 4.0 2.0 4.0 4.0 4.0 4.0 4.0 4.0",
    }


def test_a_missing_input_is_named(build, crystal):
    del crystal["edge_index"]
    with pytest.raises(KeyError, match="edge_index"):
        build()(crystal)


def test_the_runtime_modules_import_without_e3nn():
    code = (
        "import sys; sys.modules['e3nn'] = None\n"
        "import importlib, pkgutil, nequip_model.nn as nn\n"
        "names = [m.name for m in pkgutil.iter_modules(nn.__path__)]\n"
        "assert len(names) > 10, names\n"
        "for name in names: importlib.import_module('nequip_model.nn.' + name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
