"""Arguments that are one number, or one number a type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nequip_core.errors import ConfigError, closest

__all__ = ["neighbors_by_type", "per_type_values"]


def per_type_values(
    argument: str, value: float | Mapping[str, float] | None, type_names: Sequence[str]
) -> list[float] | None:
    """Return the values as a list of one number or T numbers, or None for None.

    Args:
        argument: name of the argument, for messages.
        value: a number, or a mapping from every type name to a number.
        type_names: the T type names in order.

    Raises:
        ConfigError: a type is missing or unknown, or a value is not a finite number.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in type_names]
        if unknown:
            raise ConfigError(
                f"{argument} names the type {unknown[0]!r}, which is not one of {list(type_names)}"
                f"{closest(str(unknown[0]), list(type_names))}"
            )
        missing = [name for name in type_names if name not in value]
        if missing:
            raise ConfigError(f"{argument} must have every type, lacks {missing}")
        return [_number(f"{argument} of {name}", value[name]) for name in type_names]
    if isinstance(value, Sequence):
        raise ConfigError(
            f"{argument} must be a number or a mapping from type name to number, got a list: "
            f"write {{{', '.join(f'{name}: ...' for name in type_names)}}}"
        )
    return [_number(argument, value)]


def neighbors_by_type(
    value: float | Mapping[str, float] | None, type_names: Sequence[str]
) -> list[float]:
    """Return the average number of neighbours, one number or one a type.

    Raises:
        ConfigError: it is missing, not positive, or lacks a type.
    """
    if value is None:
        raise ConfigError(
            "avg_num_neighbors must be specified: a number, a number by type, or "
            "${training_data_stats:num_neighbors_mean}"
        )
    neighbors = per_type_values("avg_num_neighbors", value, type_names) or []
    if min(neighbors) <= 0.0:
        raise ConfigError(f"avg_num_neighbors must be positive, got {value}")
    return neighbors


def _number(what: str, value: object) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError("true and false are not numbers")
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what} must be a number, got {value!r}") from error
    if not math.isfinite(number):
        raise ConfigError(f"{what} must be finite, got {number}")
    return number
