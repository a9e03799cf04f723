"""Reading a package as a zip: metadata, config and member list, without running its code."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import yaml

from nequip_core.archive.format import (
    CONFIG_MEMBER,
    CURRENT_FORMAT,
    EAGER_MODEL,
    EXTERN_MODULES_MEMBER,
    METADATA_MEMBER,
    MODEL_FOLDER,
    OLDEST_FORMAT,
    PACKAGE_SUFFIX,
)
from nequip_core.errors import FileFormatError, MissingFileError
from nequip_core.files import require_file, require_suffix

__all__ = ["PackageReader"]

# What zipfile raises for members that are damaged, encrypted or compressed by unknown means.
_UNREADABLE = (zipfile.BadZipFile, EOFError, RuntimeError, zlib.error)


class PackageReader:
    """A package opened for reading as data: nothing in it is unpickled, imported or run.

    Args:
        path: a ``.nequip.zip`` file.

    Attributes:
        path: the file.
        root: the archive's one top folder.
        metadata: the keys of ``model/package_metadata.txt``.
        format_version: the package's format.

    Raises:
        MissingFileError: there is no such file, or it cannot be read.
        FileFormatError: the name does not end in ``.nequip.zip``; the file is truncated, damaged
            or no package; its format is older or newer than this version reads.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = require_file(require_suffix(path, PACKAGE_SUFFIX, "package"), "package")
        self._members = _list_members(self.path)
        self.root: str = _top_folder(self.path, self._members)
        self.metadata: dict[str, Any] = self._read_metadata()
        self.format_version: int = self._checked_format()

    @property
    def config_text(self) -> str:
        """The training config, YAML text."""
        return self.read_text(CONFIG_MEMBER)

    @property
    def extern_modules(self) -> list[str]:
        """Dotted names of the modules that the packaged code takes from its environment."""
        return self.read_text(EXTERN_MODULES_MEMBER).split()

    def members(self) -> list[tuple[int, str]]:
        """Return size in bytes and full name of every member, sorted by name."""
        return sorted(self._members, key=lambda member: member[1])

    def sources(self) -> dict[str, str]:
        """Return the member (below the top folder) of every packaged module, by dotted name."""
        names = [name.removeprefix(f"{self.root}/") for _, name in self.members()]
        return {
            name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name
            for name in names
            if name.endswith(".py")
        }

    def read_bytes(self, member: str) -> bytes:
        """Return the content of a member, named below the top folder, its checksum verified.

        Raises:
            FileFormatError: there is no such member, or it is damaged.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(f"{self.root}/{member}")
        except KeyError:
            raise FileFormatError(f"'{self.path}' is no package: it has no '{member}'") from None
        except _UNREADABLE as error:
            raise FileFormatError(f"'{self.path}' is damaged at '{member}': {error}") from error

    def read_text(self, member: str) -> str:
        """Return the content of a text member.

        Raises:
            FileFormatError: there is no such member, it is damaged, or it is not text.
        """
        try:
            return self.read_bytes(member).decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileFormatError(f"'{member}' of '{self.path}' is not text: {error}") from error

    def verify_checksums(self) -> None:
        """Read every member and compare its checksum.

        Raises:
            FileFormatError: a member is damaged.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                damaged = archive.testzip()
        except _UNREADABLE as error:
            raise FileFormatError(f"'{self.path}' is damaged: {error}") from error
        if damaged is not None:
            raise FileFormatError(f"'{self.path}' is damaged: bad checksum of '{damaged}'")

    def _read_metadata(self) -> dict[str, Any]:
        names = {name for _, name in self._members}
        if f"{self.root}/{METADATA_MEMBER}" not in names:
            if f"{self.root}/{MODEL_FOLDER}/{EAGER_MODEL}" not in names:
                raise FileFormatError(
                    f"'{self.path}' is a zip file but no package: it has no '{METADATA_MEMBER}'"
                )
            raise FileFormatError(_too_old(self.path, 0))
        try:
            metadata = yaml.safe_load(self.read_text(METADATA_MEMBER))
        except yaml.YAMLError as error:
            raise FileFormatError(
                f"'{METADATA_MEMBER}' of '{self.path}' is not YAML: {error}"
            ) from error
        if not isinstance(metadata, dict):
            raise FileFormatError(f"'{METADATA_MEMBER}' of '{self.path}' is not a mapping")
        return metadata

    def _checked_format(self) -> int:
        found = self.metadata.get("package_version_id")
        if not isinstance(found, int) or isinstance(found, bool):
            raise FileFormatError(
                f"'{METADATA_MEMBER}' of '{self.path}' must have an integer "
                f"'package_version_id', found {found!r}"
            )
        if found < OLDEST_FORMAT:
            raise FileFormatError(_too_old(self.path, found))
        if found > CURRENT_FORMAT:
            writer = self.metadata.get("created_by") or self.metadata.get("versions")
            raise FileFormatError(
                f"'{self.path}' has package format {found}, this version reads formats "
                f"{OLDEST_FORMAT} to {CURRENT_FORMAT}: upgrade nequip-core (written by {writer})"
            )
        return found


def _too_old(path: Path, found: int) -> str:
    return (
        f"'{path}' has package format {found}, whose metadata is a pickle, and cannot be read: "
        "package the model again from its checkpoint with the NequIP that trained it, "
        "upgraded to 0.8 or newer"
    )


def _list_members(path: Path) -> list[tuple[int, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [
                (entry.file_size, entry.filename)
                for entry in archive.infolist()
                if not entry.is_dir()
            ]
    except zipfile.BadZipFile as error:
        raise FileFormatError(
            f"'{path}' is truncated or not a package ({error}; {path.stat().st_size} bytes): "
            "copy or write it again"
        ) from error
    except OSError as error:
        raise MissingFileError(f"package '{path}' cannot be read: {error}") from error


def _top_folder(path: Path, members: list[tuple[int, str]]) -> str:
    folders = {name.partition("/")[0] for _, name in members}
    if len(folders) != 1 or not all("/" in name for _, name in members):
        raise FileFormatError(
            f"'{path}' is a zip file but no package: a package has one top folder, "
            f"found {len(folders)}"
        )
    return folders.pop()
