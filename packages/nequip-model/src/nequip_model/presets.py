"""Named sizes of the NequIP network."""

from __future__ import annotations

from typing import Any

import torch

from nequip_core.errors import ConfigError, closest
from nequip_model.builder import model_builder
from nequip_model.gnn import NequIPGNNModel

__all__ = ["PRESETS", "PresetNequIPGNNModel"]

_SHARED = {
    "parity": False,
    "type_embed_num_features": 32,
    "radial_mlp_depth": 1,
    "radial_mlp_width": 128,
}

PRESETS: dict[str, dict[str, Any]] = {
    "S": {**_SHARED, "num_layers": 2, "l_max": 1, "num_features": [128, 64]},
    "M": {**_SHARED, "num_layers": 4, "l_max": 2, "num_features": [128, 64, 32]},
    "L": {**_SHARED, "num_layers": 6, "l_max": 3, "num_features": [128, 64, 32, 32]},
    "XL": {**_SHARED, "num_layers": 6, "l_max": 4, "num_features": [320, 96, 64, 32, 32]},
}
"""Arguments of `NequIPGNNModel` by preset: 0.61, 3.2, 6.8 and 32 million parameters."""


@model_builder(extends=NequIPGNNModel, chooses=tuple(PRESETS["S"]), architecture_version=1)
def PresetNequIPGNNModel(  # noqa: N802 - documented name, used like a class in configs
    *, preset: str, **kwargs: Any
) -> torch.nn.Module:
    """Build a NequIP network of a named size.

    Besides ``preset`` it takes ``seed`` (int), ``model_dtype`` (``"float32"`` or ``"float64"``) and
    the arguments of `NequIPGNNModel`; one that is given replaces that of the preset.

    Args:
        preset: ``S``, ``M``, ``L`` or ``XL``, in either case.
        **kwargs: see `NequIPGNNModel`.

    Raises:
        ConfigError: there is no such preset, or an argument is unknown, missing or out of range.
    """
    name = str(preset).upper()
    if name not in PRESETS:
        raise ConfigError(
            f"preset must be one of {list(PRESETS)}, got {preset!r}{closest(name, list(PRESETS))}"
        )
    return NequIPGNNModel(**{**PRESETS[name], **kwargs})
