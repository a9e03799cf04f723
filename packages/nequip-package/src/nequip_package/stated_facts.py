"""What a server states of the package in a file, computed again only when the file has changed."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nequip_core.archive.reader import PackageReader
from nequip_core.digests import file_digest
from nequip_core.errors import FileFormatError, MissingDependencyError
from nequip_package.signing import check_signatures

__all__ = ["StatedFacts", "facts_of"]


@dataclass(frozen=True)
class StatedFacts:
    """Facts about a package, read as data: nothing of it runs.

    Attributes:
        size: of the file, bytes.
        sha256: of the file, hexadecimal.
        identity: of the package.
        metadata: of the package, in the shape of the current format.
        card: of the package.
        signatures: what to show of each.
    """

    size: int
    sha256: str
    identity: str
    metadata: dict[str, Any]
    card: dict[str, Any]
    signatures: tuple[str, ...]


def facts_of(path: Path) -> StatedFacts:
    """Return what is stated of a file.

    Raises:
        FileFormatError: it is no package, or a damaged one, or cannot be read.
    """
    try:
        found = path.stat()
        return _computed(path, found.st_mtime_ns, found.st_size, found.st_ino)
    except OSError as error:
        raise FileFormatError(f"'{path.name}' cannot be read: {error.strerror}") from error


@functools.lru_cache(maxsize=4096)
def _computed(path: Path, changed: int, size: int, number: int) -> StatedFacts:
    package = PackageReader(path)
    package.verify_contents()
    return StatedFacts(
        size=size,
        sha256=file_digest(path),
        identity=package.identity,
        metadata=package.metadata,
        card=package.card,
        signatures=_signatures(package),
    )


def _signatures(package: PackageReader) -> tuple[str, ...]:
    try:
        checks = check_signatures(package)
    except MissingDependencyError:
        return tuple(f"{entry['public_key']} (not checked)" for entry in package.signatures())
    return tuple(
        f"{check.public_key}{', ' * bool(check.signer)}{check.signer}"
        if check.is_valid
        else f"NOT VALID: {check.public_key}"
        for check in checks
    )
