"""Units that data sets declare, so that numbers of different units are never mixed unnoticed.

The framework has no unit system: numbers are used as they stand in the data. A declaration says
what they are; it converts nothing, and data sets without one are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nequip_core.errors import ConfigError, closest
from nequip_core.fields import (
    CELL_KEY,
    EDGE_LENGTH_KEY,
    FORCE_KEY,
    FREE_ENERGY_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
    VIRIAL_KEY,
)

__all__ = ["ENERGY_UNITS", "LENGTH_UNITS", "Units", "canonical_unit", "common_units", "field_unit"]

Units = dict[str, str | None]

# Unit -> eV, and unit -> Angstrom: CODATA 2018.
_SCALES: dict[str, dict[str, float]] = {
    "energy": {
        "eV": 1.0,
        "meV": 1e-3,
        "kcal/mol": 0.0433641042,
        "kJ/mol": 0.0103642697,
        "Hartree": 27.2113862460,
        "Rydberg": 13.6056931230,
    },
    "length": {"Angstrom": 1.0, "nm": 10.0, "Bohr": 0.529177210903},
}
ENERGY_UNITS, LENGTH_UNITS = (tuple(table) for table in _SCALES.values())
"""The known units, by their one spelling."""
_ALIASES = {"Å": "Angstrom", "A": "Angstrom", "Ang": "Angstrom", "Ha": "Hartree", "Ry": "Rydberg"}
_SPELLINGS = {
    spelling.casefold(): unit
    for spelling, unit in [
        *_ALIASES.items(),
        *((unit, unit) for table in _SCALES.values() for unit in table),
    ]
}
# Powers of (energy, length) of the fields that have a unit.
_POWERS: dict[str, tuple[int, int]] = {
    TOTAL_ENERGY_KEY: (1, 0),
    FREE_ENERGY_KEY: (1, 0),
    PER_ATOM_ENERGY_KEY: (1, 0),
    FORCE_KEY: (1, -1),
    STRESS_KEY: (1, -3),
    VIRIAL_KEY: (1, 0),
    POSITIONS_KEY: (0, 1),
    CELL_KEY: (0, 1),
    EDGE_LENGTH_KEY: (0, 1),
}


def canonical_unit(dimension: str, unit: str | None, where: str = "") -> str | None:
    """Return the one spelling of a unit, None for None.

    Args:
        dimension: ``energy`` or ``length``.
        unit: a unit as a user writes it; case and common short forms do not matter.
        where: key path or data set, for the message.

    Raises:
        ConfigError: it is not a known unit of this dimension.
    """
    if unit is None:
        return None
    known = _SCALES[dimension]
    found = _SPELLINGS.get(str(unit).casefold())
    if found not in known:
        prefix = f"{where}: " if where else ""
        raise ConfigError(
            f"{prefix}{dimension}_units: '{unit}' is not one of {', '.join(known)}"
            f"{closest(str(unit), list(known))}"
        )
    return found


def common_units(declared: Iterable[tuple[str, Mapping[str, Any]]]) -> Units:
    """Return the units, by ``energy`` and ``length``, that data sets declare; None for undeclared.

    Args:
        declared: for each data set what to call it, and a mapping that may have
            ``energy_units`` and ``length_units``.

    Raises:
        ConfigError: a unit is unknown, or two data sets declare different ones.
    """
    units: Units = {"energy": None, "length": None}
    owners: dict[str, str] = {}
    for name, declaration in declared:
        for dimension in units:
            unit = canonical_unit(dimension, declaration.get(f"{dimension}_units"), name)
            first = units[dimension]
            if unit is not None and first is not None and unit != first:
                scale = _SCALES[dimension][unit] / _SCALES[dimension][first]
                raise ConfigError(
                    f"data sets of different units: {owners[dimension]} has {dimension}_units "
                    f"{first}, {name} has {unit}. One model has one unit: convert one of the files "
                    f"(1 {unit} = {scale:.9g} {first}; forces and stress change as well) or leave "
                    "it out"
                )
            if unit is not None and first is None:
                units[dimension], owners[dimension] = unit, name
    return units


def field_unit(field: str | None, units: Mapping[str, str | None]) -> str | None:
    """Return the unit of a field, e.g. ``eV/Angstrom``, or None where it is not known.

    Args:
        field: a field name.
        units: the units of ``energy`` and ``length``; the dimension's name stands for an undeclared
            one.
    """
    if field not in _POWERS:
        return None
    energy, length = _POWERS[field]
    text = (units.get("energy") or "energy") if energy else ""
    name = units.get("length") or "length"
    power = f"{name}^{abs(length)}" if abs(length) > 1 else name
    if length > 0:
        return f"{text} {power}".strip()
    return f"{_grouped(text)}/{power}" if length else text


def _grouped(unit: str) -> str:
    """Return a unit that can be divided further: ``kcal/mol`` in parentheses."""
    return f"({unit})" if "/" in unit else unit
