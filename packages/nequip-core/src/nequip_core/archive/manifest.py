"""The manifest of a package: SHA-256 and size of every member; its own digest is the identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from nequip_core.archive.format import DIGEST, MANIFEST_MEMBER, SIGNATURES_MEMBER
from nequip_core.archive.texts import TextError, is_integer, parse_json
from nequip_core.digests import hash_file

__all__ = [
    "UNLISTED",
    "hash_bytes",
    "hash_file",
    "identity_of",
    "manifest_bytes",
    "parse_manifest",
]

UNLISTED = frozenset({MANIFEST_MEMBER, SIGNATURES_MEMBER})
"""The members that a manifest does not list: itself, and what is signed afterwards."""

_MANIFEST_FORMAT = 3


def manifest_bytes(hashes: Mapping[str, tuple[str, int]]) -> bytes:
    """Return the content of ``model/manifest.json``.

    Args:
        hashes: member, named below the top folder -> SHA-256 in hexadecimal and size in bytes.
            The manifest itself and signatures are left out.
    """
    members = {
        name: {"sha256": digest, "size": size}
        for name, (digest, size) in hashes.items()
        if name not in UNLISTED
    }
    content = {"format": _MANIFEST_FORMAT, "members": members}
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("utf-8")


def parse_manifest(content: bytes) -> dict[str, tuple[str, int]]:
    """Return SHA-256 in hexadecimal and size in bytes by member: what `manifest_bytes` was given.

    Raises:
        TextError: the content is no manifest.
    """
    manifest = parse_json(content)
    if not isinstance(manifest, dict) or manifest.get("format") != _MANIFEST_FORMAT:
        raise TextError(f"is no mapping with 'format': {_MANIFEST_FORMAT}")
    members = manifest.get("members")
    if not isinstance(members, dict):
        raise TextError("has no mapping 'members'")
    return {name: _listed(name, value) for name, value in members.items()}


def _listed(name: str, value: object) -> tuple[str, int]:
    if not isinstance(value, dict) or set(value) != {"sha256", "size"}:
        raise TextError(f"must have 'sha256' and 'size' for {name[:80]!r}")
    digest, size = value["sha256"], value["size"]
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise TextError(f"has no SHA-256 in hexadecimal for {name[:80]!r}")
    if not is_integer(size) or size < 0:
        raise TextError(f"has no size in bytes for {name[:80]!r}")
    return digest, size


def identity_of(manifest: bytes) -> str:
    """Return the identity of the package with this manifest, in hexadecimal."""
    return hashlib.sha256(manifest).hexdigest()


def hash_bytes(content: bytes) -> tuple[str, int]:
    """Return SHA-256 in hexadecimal, and size, of `content`."""
    return hashlib.sha256(content).hexdigest(), len(content)
