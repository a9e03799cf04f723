"""What a repository answers when it is asked for a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nequip_core.archive.format import DIGEST
from nequip_core.archive.texts import TextError, is_integer, parse_json
from nequip_core.errors import ConfigError
from nequip_core.repository.names import ModelName, parse_name

__all__ = ["LARGEST_LISTING", "LARGEST_PACKAGE", "Listing", "parse_listing"]

LARGEST_LISTING = 2**20
"""Bytes that an answer may have."""
LARGEST_PACKAGE = 16 * 2**30
"""Bytes that a package may have."""
_LONGEST_ADDRESS = 8192


@dataclass(frozen=True)
class Listing:
    """Where a model is, and what the repository states of it.

    Attributes:
        address: where its package is; may be relative to the address that was asked.
        newer: the name of a newer version, if there is one.
        sha256: SHA-256 of the file in hexadecimal, if stated.
        identity: identity of the package, if stated.
        size: size of the file in bytes, if stated.
    """

    address: str
    newer: ModelName | None = None
    sha256: str | None = None
    identity: str | None = None
    size: int | None = None


def parse_listing(content: bytes, name: ModelName) -> Listing:
    """Return what an answer says; nothing in it is taken on faith.

    Args:
        content: JSON: ``modelId``, ``newerVersionId``, ``artifact`` with ``downloadUrl`` and,
            where the repository states them, ``sha256``, ``identity`` and ``size``.
        name: the model that was asked for.

    Raises:
        TextError: it is no such answer, or is about another model.
    """
    found = parse_json(content)
    if not isinstance(found, dict):
        raise TextError("is not a mapping")
    if found.get("modelId") != str(name):
        raise TextError(f"is about {str(found.get('modelId'))[:80]!r}, not '{name}'")
    artifact = found.get("artifact")
    if not isinstance(artifact, dict):
        raise TextError("names no file ('artifact') for the model")
    address = artifact.get("downloadUrl")
    if (
        not isinstance(address, str)
        or not 0 < len(address) <= _LONGEST_ADDRESS
        or not all("!" <= letter <= "~" for letter in address)
    ):
        raise TextError("has no address ('downloadUrl') of the model's file")
    size = artifact.get("size")
    if size is not None and not (is_integer(size) and 0 < size <= LARGEST_PACKAGE):
        raise TextError(f"states a size that no package may have: {str(size)[:40]!r}")
    return Listing(
        address=address,
        newer=_newer(found.get("newerVersionId"), name),
        sha256=_digest(artifact, "sha256"),
        identity=_digest(artifact, "identity"),
        size=size,
    )


def _digest(artifact: dict[str, Any], key: str) -> str | None:
    value = artifact.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        raise TextError(f"states a '{key}' that is no SHA-256 in hexadecimal")
    return value


def _newer(value: Any, name: ModelName) -> ModelName | None:
    """Return the newer version's name; only a notice depends on it, so a wrong one is none."""
    try:
        newer = parse_name(value) if isinstance(value, str) else None
    except ConfigError:
        return None
    return None if newer == name else newer
