"""Checking a package against the model it was made from."""

from __future__ import annotations

import os

import torch

from nequip_core.archive.snapshot import load_example_data, load_package
from nequip_core.errors import PackagingError
from nequip_core.frames import Frame
from nequip_core.saved_model import SavedModel
from nequip_core.tolerances import model_tolerance

__all__ = ["verify_package"]


def verify_package(path: str | os.PathLike[str], saved: SavedModel, example: Frame) -> None:
    """Check that a package predicts what the model it was made from predicts.

    Every floating-point output of every model is compared, on the example frame, within the
    tolerance of the model's dtype.

    Args:
        path: the package.
        saved: what it was made from.
        example: the frame that it carries.

    Raises:
        PackagingError: models, fields or values differ.
    """
    packaged = load_package(path)
    stored = load_example_data(path)
    if set(packaged.models) != set(saved.models):
        raise PackagingError(
            f"the package holds the models {sorted(packaged.models)}, "
            f"expected {sorted(saved.models)}"
        )
    for name, model in saved.models.items():
        tolerance = model_tolerance(str(model.model_dtype))
        expected = model(dict(example))
        found = packaged.models[name](stored)
        if set(found) != set(expected):
            raise PackagingError(
                f"packaged model '{name}' returns the fields {sorted(found)}, "
                f"expected {sorted(expected)}"
            )
        for key, value in expected.items():
            _compare(f"'{key}' of packaged model '{name}'", found[key], value, tolerance)


def _compare(what: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise PackagingError(
            f"{what} is {found.dtype} {tuple(found.shape)}, "
            f"expected {expected.dtype} {tuple(expected.shape)}"
        )
    if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
        largest = (found.double() - expected.double()).abs().max().item()
        raise PackagingError(
            f"{what} differs from the model by up to {largest:.3g}, tolerated are {tolerance:g}; "
            "nothing was written"
        )
