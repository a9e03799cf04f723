"""Per-edge-type cutoffs: the partial dictionary of a config, the full table, and its text form.

Grammar of the dictionary: ``{centre: r | {neighbour: r}}``. Pairs that are not named get `r_max`.
The table may be asymmetric; its rows are centre types, its columns neighbour types. Lengths are
in the unit of the positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nequip_core.errors import ConfigError, closest

if TYPE_CHECKING:
    import torch

__all__ = [
    "PartialCutoffs",
    "cutoff_fulldict_to_tensor",
    "cutoff_partialdict_to_fulldict",
    "cutoff_partialdict_to_str",
    "cutoff_partialdict_to_tensor",
    "cutoff_str_to_fulldict",
    "cutoff_table",
    "cutoff_table_from_text",
    "cutoff_table_to_text",
    "cutoff_tensor_to_str",
]

PartialCutoffs = Mapping[str, float | Mapping[str, float]]
"""The dictionary of a config, for the annotation of a builder's ``per_edge_type_cutoff``."""
FullCutoffs = Mapping[str, Mapping[str, float]]


def cutoff_table(
    per_edge_type_cutoff: PartialCutoffs, type_names: Sequence[str], r_max: float
) -> list[list[float]]:
    """Return the full T x T table, ``table[centre][neighbour]``.

    Args:
        per_edge_type_cutoff: partial dictionary, see the module's text.
        type_names: the T type names in model order.
        r_max: cutoff of the pairs that are not named; no pair may exceed it.

    Raises:
        ConfigError: a type is unknown, or a cutoff is not in (0, r_max].
    """
    known = list(type_names)
    if not isinstance(per_edge_type_cutoff, Mapping):
        raise ConfigError(
            "per_edge_type_cutoff must be a mapping {centre: cutoff} or {centre: {neighbour: "
            f"cutoff}}, got {per_edge_type_cutoff!r}"
        )

    def checked(value: object, pair: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"per_edge_type_cutoff of {pair} must be a number, got {value!r}")
        if not 0.0 < float(value) <= r_max:
            raise ConfigError(
                f"per_edge_type_cutoff of {pair} must be in (0, r_max={r_max}], got {value}"
            )
        return float(value)

    def known_type(name: object) -> str:
        if name not in known:
            raise ConfigError(
                f"per_edge_type_cutoff names the type {name!r}, which is not one of {known}"
                f"{closest(str(name), known)}"
            )
        return str(name)

    table = {centre: dict.fromkeys(known, float(r_max)) for centre in known}
    for centre, entry in per_edge_type_cutoff.items():
        row = table[known_type(centre)]
        if isinstance(entry, Mapping):
            for neighbour, value in entry.items():
                row[known_type(neighbour)] = checked(value, f"{centre}-{neighbour}")
        else:
            row.update(dict.fromkeys(known, checked(entry, str(centre))))
    return [[table[centre][neighbour] for neighbour in known] for centre in known]


def cutoff_table_to_text(table: Sequence[Sequence[float]]) -> str:
    """Return the row-major text form that compiled files carry."""
    return " ".join(str(float(value)) for row in table for value in row)


def cutoff_table_from_text(text: str | None, num_types: int) -> list[list[float]] | None:
    """Return the table of the text form, or None for None or an empty string.

    Raises:
        ValueError: the text does not hold `num_types` squared numbers, finite and not negative.
    """
    if not text:
        return None
    values = [float(word) for word in text.split()]
    if len(values) != num_types**2:
        raise ValueError(
            f"per_edge_type_cutoff holds {len(values)} numbers, expected {num_types}x{num_types}"
        )
    if not all(0.0 <= value < float("inf") for value in values):
        raise ValueError(f"per_edge_type_cutoff must hold finite numbers from 0, got '{text}'")
    return [values[row * num_types : (row + 1) * num_types] for row in range(num_types)]


def cutoff_partialdict_to_fulldict(
    per_edge_type_cutoff: PartialCutoffs, type_names: Sequence[str], r_max: float
) -> dict[str, dict[str, float]]:
    """Return the full dictionary ``{centre: {neighbour: r}}`` of a partial one.

    Raises:
        ConfigError: as `cutoff_table`.
    """
    table = cutoff_table(per_edge_type_cutoff, type_names, r_max)
    return {
        centre: dict(zip(type_names, row, strict=True))
        for centre, row in zip(type_names, table, strict=True)
    }


def cutoff_fulldict_to_tensor(
    per_edge_type_cutoff: FullCutoffs, type_names: Sequence[str]
) -> torch.Tensor:
    """Return the table (T, T), float64, length, of a full dictionary.

    Raises:
        ConfigError: a pair of types is missing.
    """
    import torch

    for centre in type_names:
        row = per_edge_type_cutoff.get(centre)
        for neighbour in type_names:
            if not isinstance(row, Mapping) or neighbour not in row:
                raise ConfigError(
                    f"the table of cutoffs lacks the pair {centre}-{neighbour}; it needs every "
                    f"pair of {list(type_names)}, centre first"
                )
    rows = [[per_edge_type_cutoff[c][n] for n in type_names] for c in type_names]
    return torch.tensor(rows, dtype=torch.float64)


def cutoff_partialdict_to_tensor(
    per_edge_type_cutoff: PartialCutoffs, type_names: Sequence[str], r_max: float
) -> torch.Tensor:
    """Return the table (T, T), float64, length, of a partial dictionary.

    Raises:
        ConfigError: as `cutoff_table`.
    """
    full = cutoff_partialdict_to_fulldict(per_edge_type_cutoff, type_names, r_max)
    return cutoff_fulldict_to_tensor(full, type_names)


def cutoff_tensor_to_str(per_edge_type_cutoff: torch.Tensor) -> str:
    """Return the row-major text form of a table (T, T)."""
    return cutoff_table_to_text(per_edge_type_cutoff.tolist())


def cutoff_partialdict_to_str(
    per_edge_type_cutoff: PartialCutoffs, type_names: Sequence[str], r_max: float
) -> str:
    """Return the row-major text form of a partial dictionary.

    Raises:
        ConfigError: as `cutoff_table`.
    """
    return cutoff_table_to_text(cutoff_table(per_edge_type_cutoff, type_names, r_max))


def cutoff_str_to_fulldict(
    per_edge_type_cutoff: str | None, type_names: Sequence[str]
) -> dict[str, dict[str, float]] | None:
    """Return the full dictionary of the text form; None of None or an empty text.

    Raises:
        ConfigError: the text does not hold a number for each pair of types.
    """
    try:
        table = cutoff_table_from_text(per_edge_type_cutoff, len(type_names))
    except ValueError as error:
        pairs = [f"{centre}-{neighbour}" for centre in type_names for neighbour in type_names]
        found = len((per_edge_type_cutoff or "").split())
        lacking = f"; it ends before the pair {pairs[found]}" if found < len(pairs) else ""
        raise ConfigError(f"{error}{lacking}") from error
    if table is None:
        return None
    return {
        centre: dict(zip(type_names, row, strict=True))
        for centre, row in zip(type_names, table, strict=True)
    }
