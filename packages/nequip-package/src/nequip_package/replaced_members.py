"""A package again with a few of its data members replaced; everything else byte by byte."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from nequip_core.archive.container import write_archive
from nequip_core.archive.format import MANIFEST_MEMBER, SIGNATURES_MEMBER
from nequip_core.archive.manifest import UNLISTED, hash_bytes, manifest_bytes, parse_manifest
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import FileFormatError
from nequip_core.files import atomic_path
from nequip_package.output_path import require_other_file, unwritable

__all__ = ["write_with_members"]

_FORMAT = 3


def write_with_members(
    package: PackageReader, output: str | os.PathLike[str], replaced: Mapping[str, bytes]
) -> PackageReader:
    """Write a package with data members replaced, and return it, opened.

    Models, code and weights are copied as they are, every byte verified, so the new package
    predicts what `package` predicts. If more than signatures is replaced, the identity changes and
    signatures, which are of the old one, are left out.

    Args:
        package: the package to start from.
        output: where to; another file than `package`.
        replaced: new content by member.

    Raises:
        FileFormatError: `package` is of an older format or damaged, or `output` has a wrong name.
        ConfigError: `output` is `package`.
        PackagingError: the file cannot be written.
    """
    if package.format_version < _FORMAT:
        raise FileFormatError(
            f"'{package.path}' has format {package.format_version}, only packages of format "
            f"{_FORMAT} can be changed so: nequip-package upgrade makes one of it"
        )
    target = require_other_file(package.path, output)
    members: dict[str, bytes | Path | Callable[[], BinaryIO]] = {
        name.removeprefix(f"{package.root}/"): functools.partial(
            package.open_member, name.removeprefix(f"{package.root}/")
        )
        for _, name in package.members()
    }
    members |= replaced
    if set(replaced) - UNLISTED:
        members.pop(SIGNATURES_MEMBER, None)
        hashes = parse_manifest(package.read_bytes(MANIFEST_MEMBER))
        hashes |= {name: hash_bytes(content) for name, content in replaced.items()}
        members[MANIFEST_MEMBER] = manifest_bytes(hashes)
    try:
        with atomic_path(target) as scratch:
            write_archive(scratch, members)
            PackageReader(scratch).verify_contents()
    except OSError as error:
        raise unwritable(target, error) from error
    return PackageReader(target)
