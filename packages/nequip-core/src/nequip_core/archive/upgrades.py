"""Metadata of older formats, brought to the shape of the current one: 1 -> 2 -> 3.

The functions are pure: they take metadata and training config, and return new metadata. They add
what the config tells; what neither tells stays absent. ``package_version_id`` stays what the file
says: it is a fact about the file, not about the shape of the metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nequip_core.archive.format import NEWEST_READABLE
from nequip_core.archive.texts import is_number

__all__ = ["UPGRADES", "upgrade_1_to_2", "upgrade_2_to_3", "upgrade_metadata"]

_SOLE_MODEL = "sole_model"
_DTYPES = ("float32", "float64")
_MODIFIER_TARGETS = ("nequip.model.modify", "nequip_model.modify.modify")


def upgrade_metadata(
    metadata: Mapping[str, Any], version: int, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the metadata of a package of format `version` in the shape of the current format."""
    upgraded = dict(metadata)
    for number in range(version, NEWEST_READABLE):
        upgraded = UPGRADES[number](upgraded, config)
    return upgraded


def upgrade_1_to_2(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata of format 1 in the shape of format 2.

    Format 2 adds ``external_modules``, which no member of a package of format 1 tells, and
    states the packaged modes; a package of format 1 has one.
    """
    return {"available_models": ["eager"], **metadata}


def upgrade_2_to_3(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata of format 2 in the shape of format 3.

    The type names come from ``atom_types``; names of models, cutoffs and dtype from the config,
    unless its model was taken from another file.
    """
    told: dict[str, Any] = {}
    names = _type_names(metadata.get("atom_types"))
    if names is not None:
        told["type_names"] = names
    models = _model_sections(config)
    if models:
        told["model_names"] = list(models)
        model = next(iter(models.values()))
        if is_number(model.get("r_max")):
            told["r_max"] = float(model["r_max"])
        if model.get("model_dtype") in _DTYPES:
            told["model_dtype"] = model["model_dtype"]
        cutoffs = _edge_cutoffs(model.get("per_edge_type_cutoff"), names, told.get("r_max"))
        if cutoffs is not None:
            told["per_edge_type_cutoff"] = cutoffs
    return {**told, **metadata}


UPGRADES: dict[int, Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]] = {
    1: upgrade_1_to_2,
    2: upgrade_2_to_3,
}
"""Format -> the function that brings its metadata to the shape of the next one."""


def _type_names(atom_types: Any) -> list[str] | None:
    if not isinstance(atom_types, Mapping):
        return None
    if set(atom_types) != set(range(len(atom_types))):
        return None
    return [str(atom_types[index]) for index in range(len(atom_types))]


def _model_sections(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the config of each model by name, without the modifiers around it."""
    training = config.get("training_module")
    section = training.get("model") if isinstance(training, Mapping) else None
    if not isinstance(section, Mapping):
        return {}
    if "_target_" in section:
        return {_SOLE_MODEL: _unmodified(section)}
    if section and all(isinstance(part, Mapping) for part in section.values()):
        return {str(name): _unmodified(part) for name, part in section.items()}
    return {}


def _unmodified(section: Mapping[str, Any]) -> Mapping[str, Any]:
    while section.get("_target_") in _MODIFIER_TARGETS and isinstance(
        section.get("model"), Mapping
    ):
        section = section["model"]
    return section


def _edge_cutoffs(given: Any, names: Sequence[str] | None, r_max: float | None) -> str | None:
    """Return the cutoffs of all pairs as text, row by row; `given` maps centre to one or several.

    A pair that is not given has the cutoff `r_max`.
    """
    if not isinstance(given, Mapping) or names is None or r_max is None:
        return None
    rows = []
    for centre in names:
        row = given.get(centre, r_max)
        for neighbour in names:
            value = row.get(neighbour, r_max) if isinstance(row, Mapping) else row
            if not is_number(value):
                return None
            rows.append(str(float(value)))
    return " ".join(rows)
