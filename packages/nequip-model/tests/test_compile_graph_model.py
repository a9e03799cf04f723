"""Compiled steps of training: the same numbers as without, and a loud way back to eager."""

from __future__ import annotations

import copy
import logging
import pickle

import pytest
import torch
from packaging.version import Version

from nequip_core.errors import ConfigError
from nequip_core.frames import batched_from_list
from nequip_core.synthetic import synthetic_frame
from nequip_model.builder import fresh_model_builder_context, model_builder
from nequip_model.compile_graph_model import CompileGraphModel
from nequip_model.compile_modes import get_current_compile_mode, override_model_compile_mode
from nequip_model.gnn import NequIPGNNModel
from nequip_model.graph_modules.functional import scatter, with_edge_vectors_
from nequip_model.graph_modules.mixin import GraphModuleMixin
from nequip_model.nn.derivatives import ForceStressOutput
from nequip_model.nn.energy import TotalEnergy
from nequip_model.nn.graph_model import GraphModel

compiles = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.8"), reason="compiling a step needs torch 2.8"
)

TYPES = ["H", "O"]
SHARED = {"seed": 1, "model_dtype": "float64", "type_names": TYPES, "r_max": 3.0}


def batch(seed, frames=2):
    """Frames of different sizes, together below what the compiler distinguishes."""
    return batched_from_list(
        [synthetic_frame(TYPES, 3.0, num_atoms=5 + n + seed, seed=seed + n) for n in range(frames)]
    )


def network(mode):
    return NequIPGNNModel(
        **SHARED,
        compile_mode=mode,
        num_layers=2,
        l_max=1,
        num_features=2,
        radial_mlp_width=4,
        avg_num_neighbors=10.0,
        per_type_energy_scales=1.0,
        per_type_energy_shifts=0.5,
        # The result of a tanh is kept for its backward pass: a trace of energies and forces alone
        # has wrong gradients of a loss on forces.
        readout_mlp_hidden_layers_depth=1,
        readout_mlp_nonlinearity="tanh",
    ).train()


class Pairs(GraphModuleMixin, torch.nn.Module):
    """Energies of pairs with a weight, and what an extension may do to gradients."""

    def __init__(self, kind="plain"):
        super().__init__()
        self._init_irreps(irreps_out={"atomic_energy": "0e"})
        self.weight = torch.nn.Parameter(torch.tensor([0.7, 0.3]))
        self.unused = torch.nn.Parameter(torch.tensor([1.0]))
        self.kind = kind

    def forward(self, data):
        data = with_edge_vectors_(data)
        energy = torch.tanh(self.weight[0] * data["edge_lengths"]) * self.weight[1]
        if self.kind == "stops":
            with torch.no_grad():
                scale = torch.exp(self.weight.sum())
            energy = energy * scale * self.weight.detach()[0]
        if self.kind == "looks" and energy.sum() > 0.0:
            energy = energy * 2.0
        centre = data["edge_index"][0]
        data["atomic_energy"] = scatter(energy, centre, dim=0, dim_size=data["pos"].shape[0])
        return data


@model_builder
def PairModel(*, type_names, r_max, kind="plain"):
    return ForceStressOutput(torch.nn.Sequential(Pairs(kind), TotalEnergy()))


def pairs(kind="plain", mode="compile"):
    return PairModel(**SHARED, kind=kind, compile_mode=mode).train()


def loss_of(out):
    return sum(out[key].square().sum() for key in ("total_energy", "forces", "stress"))


def gradients(model, data):
    """Return the outputs and the gradients of a loss on energies, forces and stress."""
    model.zero_grad()
    out = model(dict(data))
    loss_of(out).backward()
    return out, [parameter.grad for parameter in model.parameters()]


def assert_same_step(model, eager, data):
    out, found = gradients(model, data)
    expected_out, expected = gradients(eager, data)
    assert set(out) == set(expected_out)
    for key, value in expected_out.items():
        torch.testing.assert_close(out[key], value, atol=1e-12, rtol=1e-12)
    for gradient, wanted in zip(found, expected, strict=True):
        scale = float(wanted.abs().max()) if wanted is not None else 1.0
        if gradient is None or wanted is None:
            assert gradient is None or not gradient.any()
            assert wanted is None or not wanted.any()
        else:
            torch.testing.assert_close(gradient, wanted, atol=1e-11 * scale, rtol=0.0)


def said(caplog):
    """Return what the model logged."""
    return [record.getMessage() for record in caplog.records if "nequip" in record.name]


def compiled_steps(model):
    return sum(len(steps) for steps in model._steps.values())


@pytest.fixture(scope="module")
def compiled():
    """A network with one compiled step."""
    model = network("compile")
    model(batch(1))
    assert compiled_steps(model) == 1
    return model


@compiles
def test_step_of_a_network_is_that_of_the_eager_one_for_any_number_of_atoms(compiled, caplog):
    assert isinstance(compiled, CompileGraphModel)
    assert compiled.is_compile_graph_model
    eager = network("eager")
    for seed, frames in ((1, 2), (0, 2), (3, 2), (2, 3)):
        assert_same_step(compiled, eager, batch(seed, frames))
    assert compiled_steps(compiled) == 1
    assert said(caplog) == []


@compiles
def test_training_takes_the_same_path_as_the_eager_one(compiled):
    models = [copy.deepcopy(network("eager")), compiled]
    start = copy.deepcopy(compiled.state_dict())
    for model in models:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for seed in (0, 1, 2):
            optimizer.zero_grad()
            loss_of(model(batch(seed))).backward()
            optimizer.step()
    expected, found = models[0].state_dict(), compiled.state_dict()
    assert list(found) == list(expected) == list(start)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-9, rtol=1e-9)
    assert any(not torch.equal(found[key], start[key]) for key in start)
    assert compiled_steps(compiled) == 1
    compiled.load_state_dict(start)


@compiles
def test_eval_mode_and_copies_hold_no_compiled_code(compiled):
    eager = network("eager").eval()
    data = batch(1)
    try:
        torch.testing.assert_close(compiled.eval()(data)["forces"], eager(data)["forces"])
    finally:
        compiled.train()
    for twin in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert isinstance(twin, CompileGraphModel)
        assert (compiled_steps(twin), compiled_steps(compiled)) == (0, 1)


@compiles
@pytest.mark.parametrize("kind", ["plain", "stops"])
def test_what_a_model_does_to_gradients_is_kept(kind, caplog):
    model = pairs(kind)
    for seed in (0, 2):
        assert_same_step(model, pairs(kind, "eager"), batch(seed))
    assert_same_step(model, pairs(kind, "eager"), batch(1, frames=1))
    assert compiled_steps(model) == 2  # several frames, and one
    assert said(caplog) == []


@compiles
def test_a_model_that_looks_at_values_falls_back_and_says_so(caplog):
    model = pairs("looks")
    for seed in (0, 1):
        assert_same_step(model, pairs("looks", "eager"), batch(seed))
    assert compiled_steps(model) == 0
    (message,) = said(caplog)
    assert "run eagerly: it cannot be compiled (" in message


@compiles
@pytest.mark.parametrize(
    ("atoms", "edges", "message"),
    [(1, 4, "fewer than two atoms"), (2, 1, "fewer than two edges"), (2, 0, "than two edges")],
)
def test_a_frame_too_small_falls_back_and_says_so_once(atoms, edges, message, caplog):
    data = {
        "pos": torch.arange(3.0 * atoms, dtype=torch.float64).reshape(atoms, 3),
        "cell": 3.0 * torch.eye(3, dtype=torch.float64).reshape(1, 3, 3),
        "atom_types": torch.zeros(atoms, dtype=torch.long),
        "edge_index": torch.zeros(2, edges, dtype=torch.long),
        "edge_cell_shift": torch.ones(edges, 3, dtype=torch.float64),
    }
    model = pairs()
    for _ in range(2):
        assert_same_step(model, pairs("plain", "eager"), data)
    (found,) = said(caplog)
    assert "a step of training runs eagerly" in found
    assert message in found


@compiles
def test_inputs_that_need_gradients_fall_back_and_say_so(caplog):
    data = batch(0)
    data["pos"].requires_grad_(True)
    pairs()(data)
    assert "the field 'pos' requires a gradient" in caplog.text


@compiles
def test_compiled_code_with_other_results_is_not_used(monkeypatch, caplog):
    import nequip_model.compile_graph_model as module

    class Wrong(module.CompiledStep):
        def __call__(self, *arguments):
            out = super().__call__(*arguments)
            return {**out, "forces": out["forces"] * 1.001}

    monkeypatch.setattr(module, "CompiledStep", Wrong)
    assert_same_step(pairs(), pairs("plain", "eager"), batch(0))
    assert "compiled 'forces' differs from the eager one" in caplog.text


def test_older_torch_runs_eagerly_and_says_so(monkeypatch, caplog):
    monkeypatch.delattr(torch._inductor, "standalone_compile", raising=False)
    assert_same_step(pairs(), pairs("plain", "eager"), batch(0))
    assert "compiling needs torch 2.8 or newer, this is" in caplog.text


@compiles
def test_compiling_is_announced(caplog):
    with caplog.at_level(logging.INFO, logger="nequip_model"):
        pairs()(batch(0))
    assert "compiling the step of training" in said(caplog)[0]
    assert "agrees with the eager one" in said(caplog)[1]


def test_the_mode_is_overridden_from_outside():
    assert get_current_compile_mode() == "eager"
    with override_model_compile_mode("eager"), override_model_compile_mode("compile"):
        assert get_current_compile_mode(return_override=True) == ("eager", True)
        assert type(pairs()) is GraphModel
    with override_model_compile_mode("compile"):
        assert type(pairs("plain", "eager")) is CompileGraphModel
    assert get_current_compile_mode(return_override=True) == ("eager", False)
    with pytest.raises(ConfigError, match="must be one of"), override_model_compile_mode("jit"):
        raise AssertionError


def test_the_weights_and_the_description_are_the_eager_models():
    eager, model = pairs("plain", "eager"), pairs()
    assert model.description == eager.description
    assert list(model.state_dict()) == list(eager.state_dict())
    model.load_state_dict(eager.state_dict(), strict=True)


def test_a_builder_with_an_outermost_class_of_its_own_names_both():
    class Own(GraphModel):
        pass

    class OwnCompiled(CompileGraphModel):
        pass

    def plain(*, type_names, r_max):
        return Pairs()

    both = model_builder(plain, wrapper_class=Own, compile_wrapper_class=OwnCompiled)
    assert type(both(**SHARED, compile_mode="compile")) is OwnCompiled
    with pytest.raises(ConfigError, match="names no compile_wrapper_class"):
        model_builder(plain, wrapper_class=Own)(**SHARED, compile_mode="compile")


def test_a_fresh_context_makes_whole_models_within_a_builder():
    @model_builder
    def outer(*, type_names, r_max):
        with fresh_model_builder_context():
            inner = PairModel(r_max=r_max)
        assert type(inner) is GraphModel
        assert (inner.type_names, inner.model_dtype) == (TYPES, "float64")
        assert isinstance(PairModel(type_names=type_names, r_max=r_max), ForceStressOutput)
        return Pairs()

    assert type(outer(**SHARED)) is GraphModel
    with pytest.raises(ConfigError, match="mandatory model arguments"):
        PairModel(r_max=3.0)
