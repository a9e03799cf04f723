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
# Products of TF32 keep 10 of the 23 bits that float32 has after the point: one part in 2000.
_TF32 = ("NEQUIP_TF32_MODEL_TOL", 2e-3)


def model_tolerance(model_dtype: str, *, tf32: bool = False) -> float:
    """Return the tolerance, absolute and relative, of a model of the given dtype.

    Args:
        model_dtype: ``"float32"`` or ``"float64"``.
        tf32: one of the evaluations multiplies matrices in TF32; only float32 models can.

    Raises:
        ConfigError: the dtype is another, or the overriding variable is not a positive number.
    """
    if model_dtype not in _TOLERANCES:
        raise ConfigError(f"model_dtype must be one of {list(_TOLERANCES)}, got '{model_dtype}'")
    variable, default = _TF32 if tf32 and model_dtype == "float32" else _TOLERANCES[model_dtype]
    text = os.environ.get(variable, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0.0 < value < float("inf"):
        raise ConfigError(
            f"environment variable {variable} must be a positive number, got '{text}'"
        )
    return value
