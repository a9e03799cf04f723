"""What every check compares with, and how it says that two things differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from nequip_core.fields import get_field_type
from nequip_core.frames import Frame
from nequip_core.neighbors import compute_neighborlist_

__all__ = [
    "SMALLEST_SCALE",
    "Model",
    "compare",
    "compare_fields",
    "cutoff_radius",
    "fail",
    "outputs",
    "with_fresh_neighbors",
]

Model = Callable[[Frame], Frame]

# Deviations are relative to the largest value of a field, or to this where the field is smaller
# (energy, or energy / length): forces that vanish by symmetry leave only rounding.
SMALLEST_SCALE = 1e-3


def fail(what: str, detail: str) -> None:
    """Raise the `AssertionError` of a check.

    Raises:
        AssertionError: always.
    """
    raise AssertionError(f"{what}: {detail}")


def compare(what: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> float:
    """Return the largest deviation, relative to the largest expected value.

    Args:
        what: what is compared, for the message.
        found: any shape.
        expected: same shape.
        tolerance: largest deviation allowed, dimensionless.

    Raises:
        AssertionError: the shapes differ, a value is not finite, or the deviation is larger.
    """
    if found.shape != expected.shape:
        fail(what, f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    if expected.numel() == 0:
        return 0.0
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    for name, values in (("found", found), ("expected", expected)):
        if not bool(torch.isfinite(values).all()):
            fail(what, f"the {name} values are not finite")
    difference = (found - expected).abs()
    scale = max(float(expected.abs().max()), SMALLEST_SCALE)
    deviation = float(difference.max()) / scale
    if deviation > tolerance:
        place = tuple(int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
        fail(
            what,
            f"largest deviation {deviation:.2e} of the scale {scale:.2e}, tolerance "
            f"{tolerance:.1e}; at {place} found {float(found[place]):.12g}, expected "
            f"{float(expected[place]):.12g}",
        )
    return deviation


def compare_fields(what: str, found: Frame, expected: Frame, tolerance: float) -> list[str]:
    """Return the fields that were compared: those that `expected` has.

    Raises:
        AssertionError: a field is missing or differs.
    """
    for key, value in expected.items():
        if key not in found:
            fail(what, f"the output has no '{key}'")
        compare(f"{what}: {key}", found[key], value, tolerance)
    return list(expected)


def outputs(model: Model, frame: Frame) -> Frame:
    """Return what the model computed: floating-point fields of a registered kind, detached.

    Raises:
        AssertionError: the model computed nothing.
    """
    result = {
        key: value.detach()
        for key, value in model(dict(frame)).items()
        if key not in frame
        and isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and get_field_type(key, error_on_unregistered=False) is not None
    }
    if not result:
        fail("outputs", "the model adds no field of a registered kind to its input")
    return result


def cutoff_radius(model: Model) -> float:
    """Return the cutoff radius that the model states in its metadata, length.

    Raises:
        ValueError: it states none.
    """
    metadata: Mapping[str, str] = getattr(model, "metadata", {})
    if "r_max" not in metadata:
        raise ValueError("the model has no metadata with 'r_max': give the cutoff radius, r_max=")
    return float(metadata["r_max"])


def with_fresh_neighbors(frame: Frame, r_max: float) -> Frame:
    """Return a copy of the frame or batch with a new neighbor list."""
    return compute_neighborlist_({k: v for k, v in frame.items() if "edge" not in k}, r_max)
