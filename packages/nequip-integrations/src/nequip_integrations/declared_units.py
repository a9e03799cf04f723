"""Units that a model's file declares, against those that a user says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nequip_core.errors import ConfigError
from nequip_core.stated_facts import unit_scale

__all__ = ["energy_unit", "length_unit", "require_positive", "units_of"]

# Tables of constants differ in the eighth digit, units in the first.
_TOLERANCE = 1e-4


def energy_unit(facts: Mapping[str, Any], given: float | None) -> float:
    """Return eV in the model's unit of energy: as given, or as its file declares, or 1.

    Raises:
        ConfigError: the two contradict each other, or the file's unit is not known and none is
            given, or what is given is not positive.
    """
    return _unit(facts, "energy", "energy_units_to_eV", given)


def length_unit(facts: Mapping[str, Any], given: float | None) -> float:
    """Return Angstrom in the model's unit of length, see `energy_unit`."""
    return _unit(facts, "length", "length_units_to_A", given)


def units_of(facts: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, float]:
    """Return both units by the names of the arguments, see `energy_unit`."""
    return {
        "energy_units_to_eV": energy_unit(facts, arguments.get("energy_units_to_eV")),
        "length_units_to_A": length_unit(facts, arguments.get("length_units_to_A")),
    }


def require_positive(name: str, value: float) -> None:
    """Check a unit.

    Raises:
        ConfigError: it is not a positive number.
    """
    if not (math.isfinite(value) and value > 0.0):
        raise ConfigError(f"{name} must be a positive number, got {value!r}")


def _unit(facts: Mapping[str, Any], dimension: str, name: str, given: float | None) -> float:
    if given is not None:
        require_positive(name, given)
    declared = (facts.get("units") or {}).get(dimension)
    if declared is None:
        return 1.0 if given is None else float(given)
    scale = unit_scale(dimension, declared)
    if scale is None:
        if given is None:
            raise ConfigError(
                f"the model's file declares its unit of {dimension} as '{declared}', which is not "
                f"known here; say what it is with {name}"
            )
        return float(given)
    if given is not None and not math.isclose(given, scale, rel_tol=_TOLERANCE):
        raise ConfigError(
            f"the model's file declares its unit of {dimension} as '{declared}', which is "
            f"{name}={scale:g}; {name}={given:g} contradicts it; leave it out"
        )
    return scale if given is None else float(given)
