"""What a model's file states beside the model: units, and what it was trained on.

| fact | value | where it is from |
|---|---|---|
| `units` | ``energy`` and ``length`` -> name of a unit | ``units`` of the training config |
| `training_range` | see `nequip_core.training_range` | recorded by nequip-train; ``training.range`` of a card |

Compiled files carry them as JSON text under `FACTS_KEY`, where there are any.
"""  # noqa: E501

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nequip_core.saved_model import SavedModel

__all__ = ["FACTS_KEY", "facts_from_text", "facts_text", "stated_facts", "unit_scale"]

FACTS_KEY = "nequip_facts"
"""Key in the metadata of compiled files."""

# Unit -> eV, and unit -> Angstrom: CODATA 2018.
_SCALES: dict[str, dict[str, float]] = {
    "energy": {
        "ev": 1.0,
        "mev": 1e-3,
        "kcal/mol": 0.0433641042,
        "kj/mol": 0.0103642697,
        "hartree": 27.2113862460,
        "ha": 27.2113862460,
        "rydberg": 13.6056931230,
        "ry": 13.6056931230,
    },
    "length": {
        "angstrom": 1.0,
        "å": 1.0,
        "a": 1.0,
        "ang": 1.0,
        "nm": 10.0,
        "bohr": 0.529177210903,
    },
}


def unit_scale(dimension: str, unit: str) -> float | None:
    """Return eV in a unit of ``energy``, or Angstrom in one of ``length``; None if not known."""
    return _SCALES[dimension].get(unit.strip().casefold())


def stated_facts(saved: SavedModel) -> dict[str, Any]:
    """Return the facts that a checkpoint or package states, those that are there."""
    return _of(saved.config.get("units"), saved.training.get("range"))


def facts_text(facts: Mapping[str, Any]) -> str:
    """Return facts as text for the metadata of a compiled file; "" for none."""
    return json.dumps(dict(facts), sort_keys=True) if facts else ""


def facts_from_text(text: str) -> dict[str, Any]:
    """Return the facts of a compiled file; what is no such text states nothing."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    if not isinstance(found, Mapping):
        return {}
    return _of(found.get("units"), found.get("training_range"))


def _of(units: Any, training_range: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if isinstance(units, Mapping):
        named = {key: str(units[key]) for key in ("energy", "length") if units.get(key)}
        if named:
            facts["units"] = named
    if isinstance(training_range, Mapping) and training_range:
        facts["training_range"] = dict(training_range)
    return facts
