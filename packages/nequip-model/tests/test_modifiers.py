"""Modifiers of a model: listed with arguments, applied from configs, kept by descriptions."""

import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_core.instantiate import instantiate
from nequip_core.modifiers import (
    apply_modifiers,
    get_all_modifiers,
    only_apply_persistent_modifiers,
)
from nequip_model.architecture import build_described
from nequip_model.checkpoint import CHECKPOINT_VERSION, VERSION_KEY, load_checkpoint
from nequip_model.modify import modify
from nequip_model.nn.modifier import model_modifier, replace_submodules


class Inner(torch.nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor, dtype=torch.float64))

    @model_modifier(persistent=False, unsupported_devices=["cpu"])
    @classmethod
    def enable_Twice(cls, model, times):
        """Double it."""
        return replace_submodules(model, cls, lambda old: Inner(float(old.factor) * times).float())


def test_a_network_lists_its_modifiers_with_their_arguments(build):
    found = get_all_modifiers(build())
    assert {"enable_ForceStressOutput", "disable_ForceStressOutput"} <= set(found)
    scale_shift = found["modify_PerTypeScaleShift"]
    assert scale_shift.is_persistent
    assert not scale_shift.is_private
    assert scale_shift.arguments == {
        "scales": None,
        "shifts": None,
        "scales_trainable": False,
        "shifts_trainable": False,
    }
    assert scale_shift.summary.startswith("Set scales and shifts")


def test_scales_and_shifts_change_for_the_types_that_are_named(build, crystal):
    model = build()
    before = model(crystal)["atomic_energy"]
    changed = modify(model, [{"modifier": "modify_PerTypeScaleShift", "shifts": {"C": 5.0}}])
    expected = before + 7.0 * (crystal["atom_types"] == 1).double().reshape(-1, 1)
    torch.testing.assert_close(changed(crystal)["atomic_energy"], expected)
    state = changed.state_dict()
    assert [t.shape for k, t in state.items() if k.endswith((".scales", ".shifts"))] == [(3, 1)] * 2


def test_forces_are_switched_off_and_on(build, crystal):
    model = modify(build(), [{"modifier": "disable_ForceStressOutput"}])
    assert "forces" not in model(crystal)
    assert "forces" in modify(model, [{"modifier": "enable_ForceStressOutput"}])(crystal)


def test_a_config_with_modifiers_builds_and_its_description_builds_the_same(build, crystal):
    config = {
        "_target_": "nequip.model.modify",
        "modifiers": [{"modifier": "modify_PerTypeScaleShift", "scales": 3.0}],
        "model": {"_target_": "nequip.model.NequIPGNNModel", **build().description["arguments"]},
    }
    model = instantiate(config).eval()
    assert model.description["modifiers"] == config["modifiers"]
    again = build_described(model.description).eval()
    torch.testing.assert_close(again(crystal)["atomic_energy"], model(crystal)["atomic_energy"])
    assert again.description == model.description


def test_mistakes_are_named(build):
    with pytest.raises(ConfigError, match=r"'modify_PerTypeScaleShfit'.*did you mean 'modify_PerT"):
        modify(build(), [{"modifier": "modify_PerTypeScaleShfit"}])
    with pytest.raises(ConfigError, match=r"\(scales=None, .* has no argument 'shift'; did you"):
        modify(build(), [{"modifier": "modify_PerTypeScaleShift", "shift": 1.0}])
    with pytest.raises(ConfigError, match=r"names the type 'Cu', the model has the types \['H'"):
        modify(build(), [{"modifier": "modify_PerTypeScaleShift", "shifts": {"Cu": 1.0}}])
    with pytest.raises(ConfigError, match="given for a model 'other'"):
        modify(build(), {"other": []})


def test_replaced_modules_keep_mode_and_dtype_and_accelerations_can_be_skipped():
    model = torch.nn.Sequential(Inner()).eval()
    entry = [{"modifier": "enable_Twice", "times": 2.0}]
    with pytest.raises(ConfigError, match="does not run on the device 'cpu'"):
        apply_modifiers(model, entry, device="cpu")
    with only_apply_persistent_modifiers():
        assert float(modify(model, entry)[0].factor) == 1.0
    found = modify(model, entry)[0]
    assert float(found.factor) == 2.0
    assert not found.training
    assert found.factor.dtype == torch.float64


def test_one_name_for_two_modifiers_is_an_error_that_names_both():
    class Other(torch.nn.Module):
        @model_modifier(persistent=False)
        @classmethod
        def enable_Twice(cls, model):
            """Another."""
            return model

    with pytest.raises(ConfigError, match=r"'enable_Twice' is defined twice, by .*Inner.*Other"):
        get_all_modifiers(torch.nn.Sequential(Inner(), Other()))


def test_a_model_with_modifiers_comes_back_from_a_checkpoint(build, crystal, tmp_path):
    config = {
        "_target_": "nequip.model.modify",
        "modifiers": [{"modifier": "modify_PerTypeScaleShift", "shifts": {"C": 5.0}}],
        "model": {"_target_": "nequip.model.NequIPGNNModel", **build().description["arguments"]},
    }
    model = instantiate(config).eval()
    content = {
        VERSION_KEY: CHECKPOINT_VERSION,
        "hyper_parameters": {"model": config},
        "state_dict": {f"model.sole_model.{k}": 2 * v for k, v in model.state_dict().items()},
    }
    torch.save(content, tmp_path / "m.ckpt")
    loaded = load_checkpoint(tmp_path / "m.ckpt").models["sole_model"]
    shifts = next(v for k, v in loaded.state_dict().items() if k.endswith(".shifts"))
    assert shifts.flatten().tolist() == [-2.0, 10.0, -6.0]
    assert loaded.description["modifiers"] == config["modifiers"]
