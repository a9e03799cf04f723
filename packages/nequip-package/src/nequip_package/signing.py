"""Signatures of a package: Ed25519, over its identity, which covers every byte of it.

Needs the library `cryptography`, the extra ``sign``.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_core.archive.format import SIGNATURES_MEMBER
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.signatures import (
    ALGORITHM,
    SignatureCheck,
    check_signatures,
    library_of_keys,
    signed_message,
)
from nequip_core.errors import FileFormatError
from nequip_core.files import require_file
from nequip_package.json_text import json_bytes
from nequip_package.replaced_members import write_with_members

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

__all__ = [
    "SignatureCheck",
    "check_signatures",
    "public_key_text",
    "read_private_key",
    "read_public_key",
    "sign_package",
]

_KEY_BYTES = 32


def sign_package(
    package: PackageReader, output: str | os.PathLike[str], key: Ed25519PrivateKey, signer: str
) -> PackageReader:
    """Write a package with a signature added, and return it, opened; its identity stays.

    Every member is verified first. An earlier signature by the same key is replaced.

    Args:
        package: what to sign.
        output: where to; another file than `package`.
        key: the private key.
        signer: who signs, free text.

    Raises:
        FileFormatError: `package` is of an older format or damaged, or `output` has a wrong name.
        PackagingError: the file cannot be written.
    """
    public = public_key_text(key.public_key())
    entry = {
        "algorithm": ALGORITHM,
        "public_key": public,
        "signature": base64.b64encode(key.sign(signed_message(package.identity))).decode(),
        "signer": signer,
    }
    others = [known for known in package.signatures() if known["public_key"] != public]
    content = json_bytes({"signatures": [*others, entry]}, "the signatures")
    return write_with_members(package, output, {SIGNATURES_MEMBER: content})


def read_private_key(
    path: str | os.PathLike[str], password: Callable[[], bytes]
) -> Ed25519PrivateKey:
    """Return an Ed25519 private key from a file: PEM or OpenSSH.

    Args:
        path: the file.
        password: asked for the password if the key is encrypted.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: it holds no such key, or the password is wrong.
        MissingDependencyError: `cryptography` is not installed.
    """
    serialization = library_of_keys("primitives.serialization")
    content = require_file(path, "private key").read_bytes()
    is_openssh = b"BEGIN OPENSSH PRIVATE KEY" in content
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    unsupported = _exceptions().UnsupportedAlgorithm
    try:
        key: Any = load(content, None)
    except TypeError:  # encrypted
        given = password()
        try:
            key = load(content, given)
        except (ValueError, TypeError, unsupported) as error:
            raise FileFormatError(f"the private key '{path}' cannot be read: {error}") from error
    except (ValueError, unsupported) as error:
        raise FileFormatError(
            f"'{path}' holds no private key that can be read: {error}. "
            "ssh-keygen -t ed25519 -f KEY makes one"
        ) from error
    if not isinstance(key, library_of_keys("primitives.asymmetric.ed25519").Ed25519PrivateKey):
        raise FileFormatError(f"'{path}' holds another kind of key than Ed25519")
    return key


def read_public_key(source: str) -> Ed25519PublicKey:
    """Return an Ed25519 public key from a file, PEM or OpenSSH, or from its base64 text.

    Raises:
        MissingFileError: `source` is neither a key nor an existing file.
        FileFormatError: the file holds no such key.
        MissingDependencyError: `cryptography` is not installed.
    """
    ed25519 = library_of_keys("primitives.asymmetric.ed25519")
    raw = _decoded(source)
    if raw is not None and len(raw) == _KEY_BYTES and not Path(source).exists():
        return ed25519.Ed25519PublicKey.from_public_bytes(raw)
    serialization = library_of_keys("primitives.serialization")
    content = require_file(source, "public key").read_bytes()
    is_pem = content.lstrip().startswith(b"-----BEGIN")
    try:
        load = serialization.load_pem_public_key if is_pem else serialization.load_ssh_public_key
        key = load(content.strip())
    except (ValueError, _exceptions().UnsupportedAlgorithm) as error:
        raise FileFormatError(
            f"'{source}' holds no public key that can be read: {error}; it must be PEM or OpenSSH"
        ) from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise FileFormatError(f"'{source}' holds another kind of key than Ed25519")
    return key


def public_key_text(key: Ed25519PublicKey) -> str:
    """Return a public key as base64, as it is written in a package."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _exceptions() -> Any:
    import importlib

    library_of_keys("primitives.serialization")
    return importlib.import_module("cryptography.exceptions")
