"""Compile targets that extension packages register in the documented form."""

from __future__ import annotations

import pytest

from nequip_core import compile_registration
from nequip_core.errors import ConfigError


@pytest.fixture(autouse=True)
def targets(monkeypatch):
    """A table of its own for each test."""
    table = dict(compile_registration.COMPILE_TARGET_DICT)
    monkeypatch.setattr(compile_registration, "COMPILE_TARGET_DICT", table)
    return table


def target(**changes):
    def add_flag(data):
        data["flag"] = 1
        return data

    return {"input": ["pos"], "output": ["forces"], "data_settings": add_flag, **changes}


def test_registered_target_becomes_one_of_ours():
    compile_registration.register_compile_targets({"mine": target()})
    compile_registration.register_compile_targets({"mine": target()})
    (mine,) = compile_registration.registered_targets().values()
    assert (mine.name, mine.inputs, mine.outputs) == ("mine", ("pos",), ("forces",))
    assert not mine.dynamic_frames
    frame = {"pos": 0}
    assert mine.prepare(frame) == {"pos": 0, "flag": 1}
    assert frame == {"pos": 0}


def test_batched_target_has_dynamic_frames():
    compile_registration.register_compile_targets({"mine": target(input=["pos", "batch"])})
    assert compile_registration.registered_targets()["mine"].dynamic_frames


@pytest.mark.parametrize("name", ["mine", "ase"])
def test_name_of_another_target_is_refused(name):
    compile_registration.register_compile_targets({"mine": target()})
    with pytest.raises(ConfigError, match=f"'{name}' is taken"):
        compile_registration.register_compile_targets({name: target(output=["virial"])})


def test_incomplete_target_is_refused_whole():
    bad = {"good": target(), "bad": {"input": ["pos"]}}
    with pytest.raises(ConfigError, match=r"'bad' lacks \['output', 'data_settings'\]"):
        compile_registration.register_compile_targets(bad)
    assert not compile_registration.registered_targets()


def test_own_targets_have_the_documented_form(targets):
    assert set(targets) == {"ase", "batch", "pair_nequip"}
    assert targets["pair_nequip"]["output"] == compile_registration.LMP_OUTPUTS
    settings = targets["ase"]["batch_map_settings"]
    assert settings({"graph": 1, "node": 2}) == {"graph": None, "node": 2}
