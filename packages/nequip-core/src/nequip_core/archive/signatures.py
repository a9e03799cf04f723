"""Checking signatures of packages: Ed25519, over the identity. Needs the library `cryptography`."""

from __future__ import annotations

import base64
import binascii
import importlib
from dataclasses import dataclass
from typing import Any

from nequip_core.archive.reader import PackageReader
from nequip_core.errors import MissingDependencyError

__all__ = ["ALGORITHM", "SignatureCheck", "check_signatures", "library_of_keys", "signed_message"]

ALGORITHM = "ed25519"
_MESSAGE = "nequip-package identity: {}"
_KEY_BYTES = 32


@dataclass(frozen=True)
class SignatureCheck:
    """A signature in a package, checked.

    Attributes:
        signer: who the signature says that it is of; nobody vouches for it but the key.
        public_key: the key, base64.
        is_valid: it is a signature of this package by this key.
    """

    signer: str
    public_key: str
    is_valid: bool


def check_signatures(package: PackageReader) -> list[SignatureCheck]:
    """Return every signature of a package and whether it is valid.

    A signature covers the identity; that the contents are those of the identity is for
    `PackageReader.verify_contents` to say.

    Raises:
        MissingDependencyError: there are signatures and `cryptography` is not installed.
    """
    return [
        SignatureCheck(entry["signer"], entry["public_key"], _is_valid(entry, package.identity))
        for entry in package.signatures()
    ]


def signed_message(identity: str) -> bytes:
    """Return what is signed for a package with this identity."""
    return _MESSAGE.format(identity).encode("ascii")


def library_of_keys(module: str) -> Any:
    """Return a module of ``cryptography.hazmat``.

    Raises:
        MissingDependencyError: `cryptography` is not installed.
    """
    try:
        return importlib.import_module(f"cryptography.hazmat.{module}")
    except ImportError as error:
        raise MissingDependencyError(
            "signatures need the library cryptography: pip install 'nequip-package[sign]' "
            f"({error})"
        ) from error


def _is_valid(entry: dict[str, str], identity: str) -> bool:
    key, signature = _decoded(entry["public_key"]), _decoded(entry["signature"])
    if entry["algorithm"] != ALGORITHM or key is None or signature is None:
        return False
    ed25519 = library_of_keys("primitives.asymmetric.ed25519")
    if len(key) != _KEY_BYTES:
        return False
    invalid = importlib.import_module("cryptography.exceptions").InvalidSignature
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(key).verify(signature, signed_message(identity))
    except invalid:
        return False
    return True


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
