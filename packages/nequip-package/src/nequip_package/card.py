"""The model card of a package: what the model is for, and who to ask."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from typing import Any

from nequip_core.archive.format import CARD_MEMBER, LINEAGE_MEMBER
from nequip_core.archive.json_members import parse_card
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.texts import TextError
from nequip_core.archive.trust import is_trusted, remember_built
from nequip_core.errors import ConfigError
from nequip_package.absolute_paths import holds_absolute_path
from nequip_package.json_text import json_bytes
from nequip_package.lineage import steps_from
from nequip_package.replaced_members import write_with_members

__all__ = ["CARD_KEYS", "edited_card", "write_card"]

CARD_KEYS = (
    "name",
    "description",
    "level_of_theory",
    "units",
    "trained_on",
    "training",
    "metrics",
    "authors",
    "license",
    "citation",
    "references",
)
"""The keys with a meaning; others are kept as they are."""


def edited_card(
    card: Mapping[str, Any], changes: Mapping[str, Any], removed: Iterable[str] = ()
) -> dict[str, Any]:
    """Return a card with values set and removed.

    Args:
        card: the card as it is.
        changes: dotted key -> value, e.g. ``{"metrics.forces_mae": 0.012}``.
        removed: dotted keys to remove.

    Raises:
        ConfigError: a key leads through something that is no mapping, a key to remove is not there,
            or the result is no card.
    """
    edited = copy.deepcopy(dict(card))
    for key in removed:
        *above, last = key.split(".")
        target = _inside(edited, above, key, create=False)
        if last not in target:
            raise ConfigError(f"the card has no '{key}'")
        del target[last]
    for key, value in changes.items():
        *above, last = key.split(".")
        if not last or not all(above):
            raise ConfigError(f"'{key}' is no key of a card")
        _inside(edited, above, key, create=True)[last] = value
    _check(edited)
    return edited


def write_card(
    package: PackageReader, output: str | os.PathLike[str], card: Mapping[str, Any]
) -> PackageReader:
    """Write a package with another card and a step in its lineage; return it, opened.

    The code stays that of `package`: if it was built here, so was the new package.

    Raises:
        ConfigError: `card` is none.
        FileFormatError: `package` is of an older format or damaged, or `output` has a wrong name.
        PackagingError: the file cannot be written.
    """
    _check(card)
    before = package.card
    keys = sorted(key for key in {*before, *card} if before.get(key) != card.get(key))
    steps = steps_from(package, "card edited", {"keys": keys})
    members = {
        CARD_MEMBER: json_bytes(dict(card), "the card"),
        LINEAGE_MEMBER: json_bytes({"steps": steps}, "the lineage"),
    }
    written = write_with_members(package, output, members)
    if is_trusted(package.identity):
        remember_built(written.identity, output)
    return written


def _inside(card: dict[str, Any], path: list[str], key: str, create: bool) -> dict[str, Any]:
    """Return the mapping that holds the last part of a dotted key."""
    found: Any = card
    for part in path:
        found = found.setdefault(part, {}) if create else found.get(part, {})
        if not isinstance(found, dict):
            raise ConfigError(f"'{key}': '{part}' of the card is no mapping but {found!r}")
    return found


def _check(card: Mapping[str, Any]) -> None:
    try:
        parse_card(json_bytes(dict(card), "the card"))
    except TextError as error:
        raise ConfigError(f"the card {error}") from error
    for key, value in card.items():
        if holds_absolute_path({key: value}):
            raise ConfigError(
                f"'{key}' of the card holds an absolute path, which a package must not: {value!r}"
            )
