"""The frames that a package is proved with, and what its models give for them.

The frames are made up from the type names and the cutoff: no training frame travels in a package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nequip_core import fields
from nequip_core.frames import Frame
from nequip_core.synthetic import synthetic_frame
from nequip_package.tensors import tensors_bytes

__all__ = ["reference_bytes", "reference_frames", "reference_outputs", "visible_outputs"]

# Written into every package, whatever the environment says: a file cannot widen a tolerance.
_TOLERANCES = {"tolerance_float32": "5e-05", "tolerance_float64": "1e-12"}

_NOT_OUTPUTS = frozenset(
    {
        fields.POSITIONS_KEY,
        fields.CELL_KEY,
        fields.EDGE_CELL_SHIFT_KEY,
        fields.EDGE_VECTORS_KEY,
        fields.EDGE_LENGTH_KEY,
        fields.NORM_LENGTH_KEY,
        fields.EDGE_CUTOFF_KEY,
        fields.EDGE_ATTRS_KEY,
        fields.EDGE_EMBEDDING_KEY,
        fields.EDGE_FEATURES_KEY,
        fields.NODE_ATTRS_KEY,
        fields.NODE_FEATURES_KEY,
        fields.FEATURE_NORM_FACTOR_KEY,
    }
)

Outputs = dict[str, dict[str, Frame]]


def reference_frames(type_names: list[str], r_max: float) -> dict[str, Frame]:
    """Return the frames by name: ``periodic`` and ``cluster``, each with every atom type.

    Args:
        type_names: the T type names in order.
        r_max: cutoff radius, length.
    """
    return {
        "periodic": synthetic_frame(type_names, r_max, seed=1),
        "cluster": synthetic_frame(type_names, r_max, periodic=False, seed=2),
    }


def reference_outputs(models: Mapping[str, Any], frames: Mapping[str, Frame]) -> Outputs:
    """Return what each model gives for each frame: model -> frame -> field -> tensor.

    Args:
        models: name -> model in eval mode; they run where their weights are.
        frames: name -> frame.
    """
    return {
        name: {key: visible_outputs(model, frame) for key, frame in frames.items()}
        for name, model in models.items()
    }


def visible_outputs(model: torch.nn.Module, frame: Frame) -> Frame:
    """Return the outputs of a model that are no features of hidden layers, on the CPU.

    Left out are integers, inputs, and fields with values that are not finite: models of other
    packages give an infinite stress where there is no volume.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    found = model({key: value.to(device) for key, value in frame.items()})
    return {
        key: value.detach().cpu()
        for key, value in sorted(found.items())
        if key not in _NOT_OUTPUTS
        and isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and bool(value.isfinite().all())
    }


def reference_bytes(frames: Mapping[str, Frame], outputs: Outputs) -> bytes:
    """Return the content of ``model/reference.safetensors``.

    Args:
        frames: as `reference_frames` returns them.
        outputs: as `reference_outputs` returns them.
    """
    inputs = {
        f"input/{name}/{key}": value
        for name, frame in frames.items()
        for key, value in frame.items()
    }
    results = {
        f"output/{model}/{name}/{key}": value
        for model, by_frame in outputs.items()
        for name, values in by_frame.items()
        for key, value in values.items()
    }
    return tensors_bytes({**inputs, **results}, _TOLERANCES)
