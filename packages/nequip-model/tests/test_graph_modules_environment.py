"""Documented helpers of extensions: dtypes, logging, and a global state that stays as it is."""

from __future__ import annotations

import importlib.metadata
import logging

import pytest
import torch

from nequip_model.graph_modules.environment import (
    RankedLogger,
    conditional_torchscript_jit,
    conditional_torchscript_mode,
    dtype_from_name,
    dtype_to_name,
    find_first_of_type,
    floating_point_tolerance,
    get_current_code_versions,
    get_latest_global_state,
    global_state_initialized,
    set_global_state,
    torch_default_dtype,
)


def test_dtypes_have_names():
    assert dtype_from_name("float32") == dtype_from_name(torch.float32) == torch.float32
    assert dtype_to_name(torch.float64) == dtype_to_name("float64") == "float64"
    with pytest.raises(ValueError, match="one of \\['float32', 'float64'\\], got 'half'"):
        dtype_from_name("half")


def test_default_dtype_is_restored_after_an_error():
    before = torch.get_default_dtype()
    with pytest.raises(RuntimeError, match="inside"), torch_default_dtype(torch.float64):
        assert torch.get_default_dtype() == torch.float64
        raise RuntimeError("inside")
    assert torch.get_default_dtype() == before


def test_setting_the_global_state_changes_nothing():
    def state():
        return (
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.multiprocessing.get_sharing_strategy(),
            torch.random.get_rng_state().tolist(),
        )

    before = state()
    set_global_state()
    assert state() == before
    assert global_state_initialized()
    assert get_latest_global_state() == {"allow_tf32": False}
    with pytest.raises(ValueError, match="set_float32_matmul_precision"):
        set_global_state(allow_tf32=True)


def test_first_module_of_a_class():
    model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(1, 1), torch.nn.Linear(2, 2))
    assert find_first_of_type(model, torch.nn.Linear) is model[1]
    assert find_first_of_type(model, torch.nn.Tanh) is None


def test_logger_logs_from_the_only_process(caplog):
    logger = RankedLogger("of an extension", rank_zero_only=True)
    with caplog.at_level(logging.INFO):
        logger.info("built %d layers", 3)
    assert caplog.messages == ["built 3 layers"]


def test_tolerances_are_those_of_the_dtype():
    assert floating_point_tolerance("float32") == floating_point_tolerance(torch.float32) == 5e-5
    assert floating_point_tolerance("float64") == 1e-12
    with pytest.raises(ValueError, match="got 'float16'"):
        floating_point_tolerance("float16")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_modules_are_scripted_only_where_asked_for():
    import e3nn

    before = e3nn.get_optimization_defaults()
    module = torch.nn.Linear(2, 2)
    assert conditional_torchscript_jit(module) is module
    with conditional_torchscript_mode(True):
        scripted = conditional_torchscript_jit(module)
        assert e3nn.get_optimization_defaults()["jit_mode"] == "script"
        with conditional_torchscript_mode(False):
            assert conditional_torchscript_jit(module) is module
    assert isinstance(scripted, torch.jit.ScriptModule)
    torch.testing.assert_close(scripted(torch.ones(1, 2)), module(torch.ones(1, 2)))
    assert conditional_torchscript_jit(module) is module
    assert e3nn.get_optimization_defaults() == before


def test_versions_of_the_code_are_told(caplog):
    with caplog.at_level(logging.INFO):
        versions = get_current_code_versions()
    assert versions["torch"] == importlib.metadata.version("torch")
    assert versions["nequip-model"]
    assert f"torch {versions['torch']}" in caplog.messages
    caplog.clear()
    assert get_current_code_versions(verbose=False) == versions
    assert caplog.messages == []
