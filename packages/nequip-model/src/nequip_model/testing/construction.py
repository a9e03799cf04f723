"""Building and calling a model: repeatable, and without a trace in the global state."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from nequip_core.frames import Frame
from nequip_core.instantiate import instantiate
from nequip_model.testing.comparison import Model, compare_fields, fail, outputs

__all__ = [
    "check_construction",
    "check_determinism",
    "check_precision",
    "check_prediction_is_pure",
    "check_seed",
    "global_state",
]


def global_state() -> dict[str, Any]:
    """Return the process-wide settings that building and calling a model must leave alone."""
    return {
        "default dtype": torch.get_default_dtype(),
        "random state": torch.get_rng_state().tolist(),
        "number of threads": torch.get_num_threads(),
        "TF32 in matrix products": torch.backends.cuda.matmul.allow_tf32,
        "TF32 in cuDNN": torch.backends.cudnn.allow_tf32,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "gradient mode": torch.is_grad_enabled(),
        "warning filters": list(warnings.filters),
        "environment": dict(os.environ),
    }


def _compare_state(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    for name, value in before.items():
        if after[name] != value:
            detail = "" if name in ("random state", "environment") else f": {value} became "
            fail(what, f"it changed the {name}{detail}{after[name] if detail else ''}")


def _same_weights(what: str, found: torch.nn.Module, expected: torch.nn.Module) -> None:
    one, other = found.state_dict(), expected.state_dict()
    if list(one) != list(other):
        fail(what, f"other names of weights: {sorted(set(one) ^ set(other))}")
    for name, value in other.items():
        if value.dtype != one[name].dtype:
            fail(what, f"'{name}' is {one[name].dtype}, expected {value.dtype}")
        if not torch.equal(one[name], value):
            fail(what, f"'{name}' differs, expected the same bits")


def check_seed(config: Mapping[str, Any]) -> None:
    """Check that the same seed gives the same weights, and another seed others.

    Args:
        config: builder config with ``_target_``, ``seed`` and ``model_dtype``.

    Raises:
        AssertionError: the seed does not decide the weights.
    """
    model = instantiate(config)
    _same_weights("same seed", instantiate(config), model)
    if not any(p.requires_grad for p in model.parameters()):
        return
    other = instantiate({**config, "seed": int(config["seed"]) + 1}).state_dict()
    names = [name for name, _ in model.named_parameters()]
    if all(torch.equal(model.state_dict()[name], other[name]) for name in names):
        fail("other seed", "every parameter is the same as with the first seed")


def check_construction(config: Mapping[str, Any]) -> None:
    """Check that a model is the same whatever the ambient state, and leaves that state alone.

    Built with either default dtype, after random numbers were drawn, without gradients, and in
    another thread.

    Args:
        config: builder config with ``_target_``, ``seed`` and ``model_dtype``.

    Raises:
        AssertionError: weights or global state differ.
    """
    reference = instantiate(config)
    ambient, state = torch.get_default_dtype(), torch.get_rng_state()
    try:
        for dtype in (torch.float32, torch.float64):
            for gradients in (True, False):
                torch.set_default_dtype(dtype)
                torch.rand(3)
                with torch.set_grad_enabled(gradients):
                    before = global_state()
                    model = instantiate(config)
                    _compare_state(f"building under {dtype}", before, global_state())
                _same_weights(f"built under {dtype}", model, reference)
                _same_flags(f"built with gradients {gradients}", model, reference)
    finally:
        torch.set_default_dtype(ambient)
        torch.set_rng_state(state)
    built: list[torch.nn.Module] = []
    before = global_state()
    thread = threading.Thread(target=lambda: built.append(instantiate(config)))
    thread.start()
    thread.join()
    _compare_state("building in a thread", before, global_state())
    if not built:
        fail("built in a thread", "the builder raised an error there")
    _same_weights("built in a thread", built[0], reference)


def _same_flags(what: str, found: torch.nn.Module, expected: torch.nn.Module) -> None:
    wanted = dict(expected.named_parameters())
    for name, parameter in found.named_parameters():
        if parameter.requires_grad != wanted[name].requires_grad:
            fail(what, f"'{name}' has requires_grad {parameter.requires_grad}")


def check_determinism(model: Model, frame: Frame) -> None:
    """Check that two calls give the same bits.

    Raises:
        AssertionError: the second call differs.
    """
    first, second = outputs(model, frame), outputs(model, frame)
    for key, value in first.items():
        if not torch.equal(second[key], value):
            worst = float((second[key] - value).abs().max())
            fail("determinism", f"{key} differs by {worst:.2e} between two calls, expected 0")


def check_prediction_is_pure(model: Model, frame: Frame) -> None:
    """Check that a call changes neither its input, nor the weights, nor the global state.

    Raises:
        AssertionError: it does.
    """
    given = {key: value.clone() for key, value in frame.items()}
    weights: dict[str, torch.Tensor] = getattr(model, "state_dict", dict)()
    kept = {key: value.clone() for key, value in weights.items()}
    before = global_state()
    model(frame)
    _compare_state("prediction", before, global_state())
    if set(frame) != set(given):
        fail("prediction", f"it changed the fields of its input: {sorted(set(frame) ^ set(given))}")
    for what, old, new in (("its input", given, frame), ("the weights", kept, weights)):
        for key, value in old.items():
            if not torch.equal(new[key], value) or (what == "its input" and new[key].requires_grad):
                fail("prediction", f"it changed '{key}' of {what}")


def check_precision(
    build: Callable[[str], torch.nn.Module], frame: Frame, tolerance: float
) -> list[str]:
    """Check that the model in float32 agrees with the same weights in float64.

    Args:
        build: ``build("float32")`` and ``build("float64")`` return the two models.
        frame: a frame or a batch.
        tolerance: relative to the largest value of a field.

    Raises:
        AssertionError: the two differ by more than rounding explains.
    """
    single, double = build("float32").eval(), build("float64").eval()
    rounded = {}
    for name, value in single.state_dict().items():
        rounded[name] = double.state_dict()[name].to(value.dtype)
    single.load_state_dict(rounded)
    # Both start from the same rounded numbers: the arithmetic is compared, not the rounding.
    back = double.state_dict()
    double.load_state_dict({name: value.to(back[name].dtype) for name, value in rounded.items()})
    found, expected = outputs(single, frame), outputs(double, frame)
    return compare_fields("float32 against float64", found, expected, tolerance)
