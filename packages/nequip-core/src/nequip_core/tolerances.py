"""How far two evaluations of one model may differ, by the model's dtype."""

from __future__ import annotations

import os

from nequip_core.errors import ConfigError

__all__ = ["model_tolerance"]

# dtype -> (environment variable that overrides it, default used as both absolute and relative)
_TOLERANCES = {
    "float64": ("NEQUIP_FLOAT64_MODEL_TOL", 1e-12),
    "float32": ("NEQUIP_FLOAT32_MODEL_TOL", 5e-5),
}


def model_tolerance(model_dtype: str) -> float:
    """Return the tolerance, absolute and relative, of a model of the given dtype.

    Args:
        model_dtype: ``"float32"`` or ``"float64"``.

    Raises:
        ConfigError: the dtype is another, or the overriding variable is not a positive number.
    """
    if model_dtype not in _TOLERANCES:
        raise ConfigError(f"model_dtype must be one of {list(_TOLERANCES)}, got '{model_dtype}'")
    variable, default = _TOLERANCES[model_dtype]
    text = os.environ.get(variable, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not value > 0.0:
        raise ConfigError(
            f"environment variable {variable} must be a positive number, got '{text}'"
        )
    return value
