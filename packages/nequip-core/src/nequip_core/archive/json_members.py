"""The JSON members of a package, by ``docs/formats/package-v3.md``: parsed and checked."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from nequip_core.archive.format import DIGEST
from nequip_core.archive.texts import TextError, is_integer, is_number, parse_json

__all__ = ["parse_architecture", "parse_card", "parse_lineage", "parse_signatures"]

_CARD_TEXTS = ("name", "description", "level_of_theory", "license")
_CARD_MAPPINGS = ("units", "trained_on", "training", "metrics")
_CARD_LISTS = ("authors", "citation", "references")


def parse_architecture(content: bytes, model_names: Collection[str]) -> dict[str, Any]:
    """Return ``model/architecture.json``: ``models`` maps each name to a description or None.

    Raises:
        TextError: it is not what the format demands, or describes other models.
    """
    architecture = _mapping(parse_json(content))
    models = architecture.get("models")
    if not isinstance(models, dict) or set(models) != set(model_names):
        raise TextError(f"must have a mapping 'models' with the keys {sorted(model_names)}")
    for name, description in models.items():
        if description is not None:
            _check_description(name, description)
    return architecture


def parse_card(content: bytes) -> dict[str, Any]:
    """Return ``model/card.json``.

    Raises:
        TextError: it is no mapping, or a known key has a value of another type.
    """
    card = _mapping(parse_json(content))
    for keys, kind, shown in (
        (_CARD_TEXTS, str, "text"),
        (_CARD_MAPPINGS, dict, "a mapping"),
        (_CARD_LISTS, list, "a list"),
    ):
        for key in keys:
            if key in card and not isinstance(card[key], kind):
                raise TextError(f"must have {shown} as '{key}'")
    for key in _CARD_LISTS:
        if not all(isinstance(item, str) for item in card.get(key, [])):
            raise TextError(f"must have a list of text as '{key}'")
    if not all(is_number(value) for value in card.get("metrics", {}).values()):
        raise TextError("must have numbers as 'metrics'")
    return card


def parse_lineage(content: bytes) -> list[dict[str, Any]]:
    """Return the steps of ``model/lineage.json``, newest first.

    Raises:
        TextError: it is not what the format demands.
    """
    steps = _mapping(parse_json(content)).get("steps")
    if not isinstance(steps, list):
        raise TextError("must have a list 'steps'")
    for number, step in enumerate(steps):
        holds = (
            isinstance(step, dict)
            and isinstance(step.get("relation"), str)
            and isinstance(step.get("digest"), str)
            and DIGEST.fullmatch(step["digest"])
            and (step.get("format") is None or is_integer(step["format"]))
            and isinstance(step.get("packager"), str)
            and isinstance(step.get("details"), dict)
        )
        if not holds:
            raise TextError(
                f"must have relation, digest, format, packager and details in step {number}"
            )
    return steps


def parse_signatures(content: bytes) -> list[dict[str, str]]:
    """Return the signatures of ``model/signatures.json``.

    Raises:
        TextError: it is not what the format demands.
    """
    signatures = _mapping(parse_json(content)).get("signatures")
    if not isinstance(signatures, list):
        raise TextError("must have a list 'signatures'")
    needed = {"algorithm", "public_key", "signature", "signer"}
    for number, entry in enumerate(signatures):
        if (
            not isinstance(entry, dict)
            or not set(entry) >= needed
            or not all(isinstance(entry[key], str) for key in needed)
        ):
            raise TextError(f"must have the texts {sorted(needed)} in signature {number}")
    return signatures


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TextError("is not a mapping")
    return value


def _check_description(name: str, description: Any) -> None:
    holds = (
        isinstance(description, dict)
        and isinstance(description.get("architecture"), str)
        and "version" in description
        and (description["version"] is None or is_integer(description["version"]))
        and isinstance(description.get("arguments"), dict)
        and isinstance(description.get("modifiers"), list)
        and all(isinstance(modifier, dict) for modifier in description["modifiers"])
    )
    if not holds:
        raise TextError(
            f"must have architecture, version, arguments and modifiers for the model {name!r}"
        )
