"""Models on kernels: the numbers of the model without them, and one line that says what runs."""

import copy
import logging
import pickle

import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_core.synthetic import synthetic_frame
from nequip_kernels import cpu
from nequip_kernels.operation import Operation
from nequip_model.gnn import NequIPGNNModel
from nequip_model.modify import modify
from nequip_model.nn.convolution import Convolution

TYPE_NAMES = ["H", "C", "O"]
R_MAX = 4.0
FIELDS = ("atomic_energy", "total_energy", "forces", "stress", "virial")


def build(**changes):
    arguments = {
        "seed": 3,
        "model_dtype": "float64",
        "type_names": TYPE_NAMES,
        "r_max": R_MAX,
        "num_layers": 2,
        "l_max": 1,
        "num_features": 4,
        "radial_mlp_width": 8,
        "avg_num_neighbors": 10.0,
        "per_type_energy_scales": 2.0,
        "per_type_energy_shifts": {"H": -1.0, "C": -2.0, "O": -3.0},
    }
    return NequIPGNNModel(**{**arguments, **changes}).eval()


KERNELS = {"modifier": "enable_NequIPKernels"}
TABLES = [{"modifier": "enable_RadialTable", "max_error": 1e-3}]


def with_kernels(model, **arguments):
    return modify(copy.deepcopy(model), [{**KERNELS, **arguments}])


def kernels(model):
    return [one.kernel for one in model.modules() if isinstance(one, Convolution)]


def training_gradients(model, frame):
    out = model(dict(frame))
    loss = out["total_energy"].square().sum() + out["forces"].square().sum()
    loss = loss + out["stress"].square().sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


@pytest.fixture
def crystal():
    return synthetic_frame(TYPE_NAMES, R_MAX)


DEGREES = [
    (1, True),
    (2, False),
    *(pytest.param(l, p, marks=pytest.mark.slow) for l, p in ((0, True), (2, True), (3, True))),
]


@pytest.mark.parametrize(("l_max", "parity"), DEGREES)
def test_energies_forces_stress_and_gradients_of_training_stay(crystal, l_max, parity):
    plain = build(l_max=l_max, parity=parity)
    fast = with_kernels(plain)
    assert all(isinstance(one, Operation) for one in kernels(fast))
    for training in (False, True):
        expected = plain.train(training)(dict(crystal))
        found = fast.train(training)(dict(crystal))
        for name in FIELDS:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-12)
    want, have = training_gradients(plain, crystal), training_gradients(fast, crystal)
    assert have.keys() == want.keys()
    for name, gradient in want.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(have[name], gradient, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize(
    ("l_max", "num_features"), [(1, 8), pytest.param(2, [6, 4, 2], marks=pytest.mark.slow)]
)
def test_float32_models_are_as_close_to_float64_as_without_kernels(crystal, l_max, num_features):
    plain = build(model_dtype="float32", l_max=l_max, num_features=num_features)
    exact = build(l_max=l_max, num_features=num_features)
    exact.load_state_dict(plain.state_dict())
    expected = exact(dict(crystal))
    errors = {}
    for who, model in (("plain", plain), ("fast", with_kernels(plain))):
        found = model(dict(crystal))
        errors[who] = {
            name: float((found[name].double() - expected[name]).abs().max()) for name in FIELDS
        }
    for name in FIELDS:
        scale = float(expected[name].abs().max())
        assert errors["fast"][name] < 3 * errors["plain"][name] + 1e-7 * scale


def test_a_step_of_training_lowers_the_loss_as_without_kernels(crystal):
    plain = build().train()
    losses = {}
    for who, model in (("plain", plain), ("fast", with_kernels(plain))):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        losses[who] = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = model(dict(crystal))["forces"].sub(0.1).square().mean()
            loss.backward()
            optimizer.step()
            losses[who].append(loss.item())
    assert losses["fast"] == pytest.approx(losses["plain"], rel=1e-8)
    assert losses["fast"][-1] < losses["fast"][0]


def test_forces_are_the_derivative_of_the_energy(crystal):
    model = with_kernels(build(l_max=2, parity=False))
    forces = model(dict(crystal))["forces"]
    step = 1e-4
    for atom, axis in ((0, 0), (3, 2)):
        energies = []
        for sign in (1, -1):
            moved = {key: value.clone() for key, value in crystal.items()}
            moved["pos"][atom, axis] += sign * step
            energies.append(model(moved)["total_energy"].item())
        slope = -(energies[0] - energies[1]) / (2 * step)
        assert forces[atom, axis].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_tables_are_the_same_with_kernels(crystal, order):
    plain = build()
    modifiers = [*TABLES, KERNELS]
    slow = modify(copy.deepcopy(plain), modifiers[:1])
    fast = modify(copy.deepcopy(plain), [modifiers[n] for n in order])
    expected, found = slow(dict(crystal)), fast(dict(crystal))
    for name in FIELDS:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-11)
    assert not torch.equal(plain(dict(crystal))["forces"], found["forces"])


@pytest.mark.parametrize("tables", [False, True])
def test_second_derivatives_of_the_energy_stay_in_inference(crystal, tables):
    plain = modify(build(), TABLES) if tables else build()
    fast = with_kernels(plain)

    def curvature(model):
        energy = model.model.energy
        positions = crystal["pos"].clone().requires_grad_()
        total = energy({**crystal, "pos": positions})["total_energy"].sum()
        (slope,) = torch.autograd.grad(total, [positions], create_graph=True)
        return torch.autograd.grad(slope[1, 0], [positions])[0]

    torch.testing.assert_close(curvature(fast), curvature(plain), rtol=0, atol=1e-10)


def test_gradients_by_weights_stay_in_evaluation(crystal):
    plain = modify(build(), [{"modifier": "disable_ForceStressOutput"}])
    fast = with_kernels(plain)
    for one in (plain, fast):
        one(dict(crystal))["total_energy"].sum().backward()
    for (name, want), have in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert have.grad is not None, name
        torch.testing.assert_close(have.grad, want.grad, rtol=1e-10, atol=1e-12)


def test_a_frame_without_edges_has_the_energy_of_its_atoms():
    frame = synthetic_frame(TYPE_NAMES, R_MAX, periodic=False, num_atoms=1)
    assert frame["edge_index"].shape[1] == 0
    plain = build()
    found, expected = with_kernels(plain)(dict(frame)), plain(dict(frame))
    assert found["total_energy"].item() == pytest.approx(expected["total_energy"].item())
    assert not found["forces"].any()


def test_weights_and_state_dict_stay():
    plain = build()
    fast = with_kernels(plain)
    state = fast.state_dict()
    assert list(state) == list(plain.state_dict())
    assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())
    fast.load_state_dict(plain.state_dict(), strict=True)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_keep_their_kernels(crystal, again):
    fast = with_kernels(build())
    copied = again(fast)
    assert all(isinstance(one, Operation) for one in kernels(copied))
    assert torch.equal(copied(dict(crystal))["forces"], fast(dict(crystal))["forces"])


def test_another_dtype_has_kernels_of_its_own():
    convolution = next(m for m in with_kernels(build()).modules() if isinstance(m, Convolution))
    generator = torch.Generator().manual_seed(0)
    edges = torch.tensor([0, 1, 1, 2])
    features = torch.randn(3, convolution.layout_in.dim, generator=generator)
    harmonics = torch.randn(4, 4, generator=generator)
    weights = torch.randn(4, convolution.weight_numel, generator=generator)
    found = convolution.float()(features, harmonics, weights, edges, edges.flip(0))
    convolution.kernel = None
    expected = convolution(features, harmonics, weights, edges, edges.flip(0))
    torch.testing.assert_close(found, expected)


def test_one_line_says_that_kernels_run(caplog):
    with caplog.at_level(logging.INFO, logger="nequip_kernels"):
        with_kernels(build())
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "2 convolutions in float64 run on kernels compiled for this CPU" in record.message


def test_without_a_compiler_the_model_runs_and_one_line_says_what_is_lost(
    crystal, caplog, monkeypatch
):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setattr(cpu, "_KERNELS", {})
    plain = build(num_features=7)
    slow = with_kernels(plain)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "run on plain torch, which is slower: there is no C++ compiler" in record.message
    assert kernels(slow) == [None, None]
    assert torch.equal(slow(dict(crystal))["forces"], plain(dict(crystal))["forces"])


def test_a_kernel_that_is_lost_later_is_said_once(caplog, monkeypatch):
    convolution = next(m for m in with_kernels(build()).modules() if isinstance(m, Convolution))
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setattr(cpu, "_KERNELS", {})
    edges = torch.zeros(1, dtype=torch.int64)
    given = [
        torch.ones(1, columns)
        for columns in (convolution.layout_in.dim, 4, convolution.weight_numel)
    ]
    for _ in range(2):
        assert convolution.float()(*given, edges, edges).isfinite().all()
    assert ["plain torch" in record.message for record in caplog.records] == [True]


def test_backends_are_chosen_by_name(caplog):
    plain = build()
    assert all(isinstance(one, Operation) for one in kernels(with_kernels(plain, backend="cpu")))
    fast = with_kernels(plain)
    with caplog.at_level(logging.INFO, logger="nequip_kernels"):
        slow = modify(fast, [{"modifier": "enable_NequIPKernels", "backend": "reference"}])
    assert kernels(slow) == [None, None]
    assert "plain torch, as asked for" in caplog.text


def test_a_backend_that_there_is_not_is_an_error():
    with pytest.raises(ConfigError, match=r"backend must be one of .* did you mean 'cpu'"):
        with_kernels(build(), backend="cpus")


def test_a_backend_that_was_asked_for_and_does_not_run_is_an_error(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setattr(cpu, "_KERNELS", {})
    with pytest.raises(ConfigError, match="'cpu' do not run here: there is no C"):
        with_kernels(build(), backend="cpu")


def test_the_modifier_is_an_acceleration():
    from nequip_core.modifiers import get_all_modifiers

    found = get_all_modifiers(build())["enable_NequIPKernels"]
    assert not found.is_persistent
    assert not found.is_private
    assert found.arguments == {"backend": "auto"}
