"""Accelerations of the convolution: the numbers stay, and a missing library is named."""

import copy
import importlib
import importlib.metadata
import sys
import types

import pytest
import torch

from nequip_core.errors import ConfigError, MissingDependencyError
from nequip_core.modifiers import get_all_modifiers, only_apply_persistent_modifiers
from nequip_model.modify import modify
from nequip_model.nn.convolution import Convolution
from nequip_model.nn.cuequivariance_convolution import _method
from nequip_model.nn.layout import Layout

CUEQUIVARIANCE = [{"modifier": "enable_CuEquivariance"}]
OPENEQUIVARIANCE = [{"modifier": "enable_OpenEquivariance"}]
ACCELERATIONS = ["enable_CuEquivariance", "enable_OpenEquivariance"]


@pytest.fixture
def accelerate():
    """Function to a copy of a model with cuEquivariance; skips without the library."""
    # Without its kernels for GPUs the library says on import that it runs without them.
    pytest.importorskip("cuequivariance", exc_type=ImportError)
    pytest.importorskip("cuequivariance_torch", exc_type=ImportError)
    return lambda model: modify(copy.deepcopy(model), CUEQUIVARIANCE)


def convolutions(model):
    return [module for module in model.modules() if isinstance(module, Convolution)]


def training_gradients(model, frame):
    out = model(frame)
    loss = out["total_energy"].square().sum() + out["forces"].square().sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


def test_a_model_lists_its_accelerations(build):
    found = get_all_modifiers(build())
    assert [found[name].is_persistent for name in ACCELERATIONS] == [False, False]
    assert [found[name].is_private for name in ACCELERATIONS] == [False, False]
    assert found["enable_CuEquivariance"].unsupported_devices == ()
    assert found["enable_OpenEquivariance"].unsupported_devices == ("cpu",)


@pytest.mark.parametrize(
    ("entry", "library", "command"),
    [
        (CUEQUIVARIANCE, "cuequivariance_torch", "pip install cuequivariance-torch"),
        (OPENEQUIVARIANCE, "openequivariance", "pip install openequivariance"),
    ],
)
def test_a_missing_library_is_named_with_its_command(build, monkeypatch, entry, library, command):
    monkeypatch.setitem(sys.modules, library.removesuffix("_torch"), None)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=f"{library} .*`{command}`"):
        modify(build(), entry)


@pytest.mark.parametrize(
    ("cuda", "message"), [(False, "CUDA GPUs only"), (True, "enable_CuEquivariance")]
)
def test_openequivariance_says_what_to_do_instead(build, monkeypatch, cuda, message):
    library = types.ModuleType("openequivariance")
    monkeypatch.setitem(sys.modules, "openequivariance", library)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    with pytest.raises(ConfigError, match=message):
        modify(build(), OPENEQUIVARIANCE)


def test_without_nequip_kernels_its_modifier_says_how_to_install_it(build, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())
    with pytest.raises(MissingDependencyError, match="`pip install nequip-kernels`"):
        modify(build(), [{"modifier": "enable_NequIPKernels"}])


def test_what_nequip_kernels_offers_takes_the_place_of_every_convolution(
    build, crystal, monkeypatch
):
    asked, plain = [], build()

    def offer(layers, device, dtype, backend):
        asked.append((layers, device, dtype, backend))
        return [Convolution(**_arguments(layer)).double() for layer in layers]

    entry = types.SimpleNamespace(load=lambda: offer)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: (entry,))
    fast = modify(copy.deepcopy(plain), [{"modifier": "enable_NequIPKernels", "backend": "cpu"}])
    ((layers, device, dtype, backend),) = asked
    assert len(layers) == len(convolutions(plain))
    assert (device.type, dtype, backend) == ("cpu", torch.float64, "cpu")
    torch.testing.assert_close(
        fast(crystal)["forces"], plain(crystal)["forces"], rtol=0, atol=1e-12
    )


def _arguments(layer):
    given = dict(layer)
    layouts = {f"layout_{side}": Layout(given.pop(f"blocks_{side}")) for side in ("in", "out")}
    return {**given, **layouts}


def test_accelerations_are_skipped_for_saving(build):
    model = build()
    kinds = [type(module) for module in model.modules()]
    with only_apply_persistent_modifiers():
        model = modify(model, CUEQUIVARIANCE + OPENEQUIVARIANCE)
    assert [type(module) for module in model.modules()] == kinds


@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("l_max", [0, 1, 2])
def test_cuequivariance_keeps_energies_forces_and_gradients(
    build, crystal, accelerate, l_max, parity
):
    plain = build(l_max=l_max, parity=parity).train()
    fast = accelerate(plain)
    assert all("CuEquivariance" in type(module).__name__ for module in convolutions(fast))
    expected, found = plain(crystal), fast(crystal)
    for key in ("atomic_energy", "forces", "virial"):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-10)
    want = training_gradients(plain, crystal)
    have = training_gradients(fast, crystal)
    assert have.keys() == want.keys()
    for name, gradient in want.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(have[name], gradient, rtol=0, atol=1e-10 * scale)


def test_cuequivariance_takes_blocks_of_different_sizes(build, crystal, accelerate):
    plain = build(l_max=2, num_features=[6, 4, 2])
    found = accelerate(plain)(crystal)
    torch.testing.assert_close(found["forces"], plain(crystal)["forces"], rtol=0, atol=1e-10)


def test_cuequivariance_changes_no_state_dict_nor_mode_of_the_model(build, crystal, accelerate):
    plain = build()
    fast = accelerate(plain)
    again = copy.deepcopy(modify(fast, CUEQUIVARIANCE))
    for model in (fast, again):
        state = model.state_dict()
        assert list(state) == list(plain.state_dict())
        assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())
        assert not any(module.training for module in convolutions(model))
    torch.testing.assert_close(
        again(crystal)["forces"], plain(crystal)["forces"], rtol=0, atol=1e-10
    )
    fast.load_state_dict(plain.state_dict(), strict=True)


def test_kernels_of_a_gpu_are_chosen_by_the_sizes_of_the_blocks():
    equal, different = Layout([(4, 0, 1), (4, 1, -1)]), Layout([(4, 0, 1), (2, 1, -1)])
    assert [_method("cpu", layout) for layout in (equal, different)] == ["naive"] * 2
    assert [_method("cuda", layout) for layout in (equal, different)] == ["uniform_1d", "fused_tp"]


def test_cuequivariance_follows_a_later_change_of_dtype(build, accelerate):
    plain = convolutions(build())[0]
    fast = convolutions(accelerate(build()))[0].float()
    index = torch.tensor([0, 1, 1, 2])
    features = torch.randn(3, plain.layout_in.dim, generator=torch.Generator().manual_seed(1))
    weights, harmonics = torch.ones(4, plain.weight_numel), torch.ones(4, 4)
    arguments = (features, harmonics, weights, index, index.flip(0))
    assert fast(*arguments).dtype == torch.float32
    torch.testing.assert_close(fast(*arguments), plain.float()(*arguments))


def test_cuequivariance_follows_the_dtype(build, crystal, accelerate):
    plain = build(model_dtype="float32")
    found = accelerate(plain)(crystal)
    torch.testing.assert_close(found["forces"], plain(crystal)["forces"], rtol=1e-4, atol=1e-5)


def test_cuequivariance_is_named_as_a_library_of_custom_operators(build, accelerate):
    kind = importlib.import_module("nequip_model.nn.cuequivariance_convolution")
    assert kind.CuEquivarianceConvolution._nequip_custom_ops_libs == ("cuequivariance_torch",)
    assert "cuequivariance_torch" in str(accelerate(build()).metadata)
