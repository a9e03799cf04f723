"""Checks of builder arguments; each message has the argument, what is wanted and what was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nequip_core.errors import ConfigError, closest
from nequip_model.nn.activations import ACTIVATIONS, SECOND_MOMENTS

__all__ = [
    "readout_nonlinearity",
    "require_cutoff",
    "require_graph_fields",
    "require_integer",
    "require_nonlinearities",
    "require_one_a_layer",
]


def require_integer(name: str, value: object, minimum: int) -> None:
    """Raise a `ConfigError` unless `value` is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(f"{name} must be an integer, at least {minimum}, got {value!r}")


def require_cutoff(r_max: object, polynomial_cutoff_p: object) -> None:
    """Raise a `ConfigError` unless the radius is positive and the envelope's order at least 2."""
    if isinstance(r_max, bool) or not isinstance(r_max, int | float) or not r_max > 0.0:
        raise ConfigError(
            f"r_max must be a positive number, in the data's length unit; got {r_max!r}"
        )
    if not isinstance(polynomial_cutoff_p, int | float) or not polynomial_cutoff_p >= 2:
        raise ConfigError(f"polynomial_cutoff_p must be at least 2, got {polynomial_cutoff_p!r}")


def require_one_a_layer(**lists: Any) -> None:
    """Raise a `ConfigError` unless the arguments are lists of the same length, not empty."""
    for name, values in lists.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ConfigError(f"{name} must be a list with one entry a layer, got {values!r}")
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ConfigError(f"one entry a layer is needed in each of these lists, got {lengths}")


def require_nonlinearities(name: str, value: object) -> None:
    """Raise a `ConfigError` unless `value` names a nonlinearity for ``e`` and one for ``o``."""
    known = sorted(SECOND_MOMENTS)
    if not isinstance(value, Mapping) or set(value) != {"e", "o"}:
        raise ConfigError(
            f"{name} must be a mapping with the keys e (even) and o (odd), each one of {known}; "
            f"got {value!r}"
        )
    for key, nonlinearity in value.items():
        if nonlinearity not in SECOND_MOMENTS:
            raise ConfigError(
                f"{name} of {key} must be one of {known}, got {nonlinearity!r}"
                f"{closest(str(nonlinearity), known)}"
            )


def readout_nonlinearity(value: object) -> str | None:
    """Return the name of the readout's nonlinearity; ``None`` and ``null`` as text mean none.

    Raises:
        ConfigError: it is not a known name.
    """
    if value in (None, "None", "null"):
        return None
    if value not in ACTIVATIONS:
        raise ConfigError(
            f"readout_mlp_nonlinearity must be one of {sorted(ACTIVATIONS)} or null, got {value!r}"
            f"{closest(str(value), list(ACTIVATIONS))}"
        )
    return str(value)


def require_graph_fields(entries: Any) -> list[dict[str, Any]]:
    """Return the entries of ``categorical_graph_field_embed``.

    Raises:
        ConfigError: an entry lacks a key or has an unknown one, or its values make no sense.
    """
    name = "categorical_graph_field_embed"
    if entries is None:
        return []
    if isinstance(entries, str | Mapping) or not isinstance(entries, Sequence):
        raise ConfigError(f"{name} must be a list of mappings, got {entries!r}")
    needed, allowed = (
        {"field", "num_features", "min", "max"},
        (None, "uniform", "zero", "near_zero"),
    )
    for place, entry in enumerate(entries):
        where = f"entry {place} of {name}"
        if not isinstance(entry, Mapping) or not needed <= set(entry) <= needed | {"init"}:
            raise ConfigError(
                f"{where} must have the keys {sorted(needed)} and may have init, got {entry!r}"
            )
        field = entry["field"]
        if not isinstance(field, str) or not field or "." in field:
            raise ConfigError(
                f"field in {where} must be a field's name without dots, got {field!r}"
            )
        require_integer(f"num_features in {where}", entry["num_features"], 1)
        for key in ("min", "max"):
            if isinstance(entry[key], bool) or not isinstance(entry[key], int):
                raise ConfigError(f"{key} in {where} must be an integer, got {entry[key]!r}")
        if entry["min"] > entry["max"]:
            raise ConfigError(f"min in {where} must not exceed max, got {dict(entry)}")
        if entry.get("init") not in allowed:
            raise ConfigError(f"init in {where} must be one of {allowed}, got {entry['init']!r}")
    fields = [entry["field"] for entry in entries]
    if len(set(fields)) != len(fields):
        raise ConfigError(f"{name} must name every field once, got {fields}")
    return [dict(entry) for entry in entries]
