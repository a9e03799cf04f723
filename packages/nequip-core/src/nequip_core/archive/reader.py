"""Reading a package as data: nothing in it is unpickled, imported or run, and torch stays out.

What reaches a caller has been checked: the container when the package is opened, each member
against the manifest (formats 1 and 2: against its CRC) whenever it is read.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nequip_core._version import __version__
from nequip_core.archive.container import Entry, Section, read_entries, require_canonical
from nequip_core.archive.format import (
    ARCHITECTURE_MEMBER,
    CARD_MEMBER,
    CONFIG_MEMBER,
    EAGER_MODEL_MEMBER,
    EXTERN_MODULES_MEMBER,
    LARGEST_TEXT,
    LINEAGE_MEMBER,
    MANIFEST_MEMBER,
    METADATA_MEMBER,
    NEWEST_READABLE,
    OLDEST_FORMAT,
    PACKAGE_SUFFIX,
    REQUIRED_MEMBERS,
    SIGNATURES_MEMBER,
    mode_member,
)
from nequip_core.archive.json_members import (
    parse_architecture,
    parse_card,
    parse_lineage,
    parse_signatures,
)
from nequip_core.archive.manifest import UNLISTED, identity_of, parse_manifest
from nequip_core.archive.metadata_rules import UNDERSTOOD, metadata_fault
from nequip_core.archive.texts import TextError, is_integer, parse_yaml
from nequip_core.archive.upgrades import upgrade_metadata
from nequip_core.digests import file_digest
from nequip_core.errors import FileFormatError, MissingFileError
from nequip_core.files import require_file, require_suffix

if TYPE_CHECKING:
    import torch

    from nequip_core.frames import Frame

__all__ = ["PackageReader"]

_CHUNK = 2**20


class PackageReader:
    """A package of any readable format, opened for reading as data.

    Args:
        path: a ``.nequip.zip`` file.

    Attributes:
        path: the file.
        root: the archive's one top folder.
        format_version: the package's format.
        raw_metadata: the keys of ``model/package_metadata.txt``, as the file has them.

    Raises:
        MissingFileError: there is no such file, or it cannot be read.
        FileFormatError: the name does not end in ``.nequip.zip``; the file is truncated, damaged
            or no package; it breaks the rules of its format; its format is older or newer than
            this version reads.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = require_file(require_suffix(path, PACKAGE_SUFFIX, "package"), "package")
        entries = read_entries(self.path)
        self.root: str = _top_folder(self.path, entries)
        self._entries = {entry.name.removeprefix(f"{self.root}/"): entry for entry in entries}
        self._listed: dict[str, tuple[str, int]] | None = None
        self.raw_metadata: dict[str, Any] = self._read_metadata()
        self.format_version: int = self._checked_format()
        if self.format_version >= 3:
            self._check_features()
            require_canonical(self.path, entries)
            self._manifest, self._listed = self._read_manifest()
            self._verify(METADATA_MEMBER)  # it was read before the manifest
        self._check_metadata(self.raw_metadata)

    @functools.cached_property
    def metadata(self) -> dict[str, Any]:
        """The metadata in the shape of the current format; ``package_version_id`` is the file's.

        Of formats 1 and 2, what the config tells is added.

        Raises:
            FileFormatError: a format-1 or -2 package has a damaged config.
        """
        if self.format_version >= NEWEST_READABLE:
            return dict(self.raw_metadata)
        return upgrade_metadata(self.raw_metadata, self.format_version, self.config)

    @property
    def config_text(self) -> str:
        """The training config, YAML text."""
        return self.read_text(CONFIG_MEMBER)

    @property
    def config(self) -> dict[str, Any]:
        """The training config; every access returns a new one.

        Raises:
            FileFormatError: it is not a mapping in plain YAML.
        """
        return self._yaml_mapping(CONFIG_MEMBER)

    @property
    def type_names(self) -> list[str]:
        """The names of the atom types, in order.

        Raises:
            FileFormatError: the metadata do not state them.
        """
        names = self.metadata.get("type_names")
        if names is None:
            raise FileFormatError(f"'{METADATA_MEMBER}' of '{self.path}' states no type names")
        return list(names)

    @property
    def r_max(self) -> float | None:
        """The cutoff radius in the model's unit of length; None if an older package tells none."""
        found = self.metadata.get("r_max")
        return None if found is None else float(found)

    @property
    def model_names(self) -> list[str]:
        """The names of the models; empty if an older package does not tell."""
        return list(self.metadata.get("model_names", []))

    @property
    def extern_modules(self) -> list[str]:
        """Dotted names of the modules that the packaged code takes from its environment."""
        return self.read_text(EXTERN_MODULES_MEMBER).split()

    @functools.cached_property
    def identity(self) -> str:
        """The identity, in hexadecimal: SHA-256 of the manifest, or of a format-1 or -2 file."""
        if self._listed is not None:
            return identity_of(self._manifest)
        return file_digest(self.path)

    @property
    def architecture(self) -> dict[str, Any] | None:
        """``model/architecture.json``: ``{"models": {name: description}}``; formats 1, 2: None."""
        if self._listed is None:
            return None
        return self._parsed(
            ARCHITECTURE_MEMBER,
            lambda content: parse_architecture(content, self.metadata["model_names"]),
        )

    @property
    def card(self) -> dict[str, Any]:
        """The model card; empty for formats 1 and 2."""
        return {} if self._listed is None else self._parsed(CARD_MEMBER, parse_card)

    @property
    def lineage(self) -> list[dict[str, Any]]:
        """The steps that led to the package, newest first; empty for formats 1 and 2."""
        return [] if self._listed is None else self._parsed(LINEAGE_MEMBER, parse_lineage)

    def signatures(self) -> list[dict[str, str]]:
        """Return the signatures as they are stored, none of them checked."""
        if self._listed is None or SIGNATURES_MEMBER not in self._entries:
            return []
        return self._parsed(SIGNATURES_MEMBER, parse_signatures)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return every parameter and persistent buffer by ``<model>.<state-dict name>``.

        Raises:
            FileFormatError: the package has format 1 or 2, or its weights are damaged.
        """
        from nequip_core.archive.stored_frames import read_weights

        return read_weights(self)

    def example_frame(self) -> Frame:
        """Return a frame that fits the models, for export; formats 1 and 2: one made up.

        Raises:
            FileFormatError: it is damaged, or an older package does not tell types and cutoff.
        """
        from nequip_core.archive.stored_frames import read_example_frame

        return read_example_frame(self)

    def reference(self) -> dict[str, Any]:
        """Return the reference outputs.

        Returns:
            ``frames``: frame -> field -> tensor; ``outputs``: model -> frame -> field -> tensor;
            ``tolerances``: dtype -> tolerance, never above this version's own.

        Raises:
            FileFormatError: the package has format 1 or 2, or its reference is damaged.
        """
        from nequip_core.archive.stored_frames import read_reference

        return read_reference(self)

    def members(self) -> list[tuple[int, str]]:
        """Return size in bytes and full name of every member, sorted by name."""
        listed = [(entry.size, entry.name) for entry in self._entries.values()]
        return sorted(listed, key=lambda member: member[1])

    def sources(self) -> dict[str, str]:
        """Return the member (below the top folder) of every packaged module, by dotted name.

        Raises:
            FileFormatError: two members are the same module, one of which would hide the other.
        """
        found: dict[str, str] = {}
        for name in sorted(self._entries):
            path = name.removesuffix(".py")
            if path == name or "." in path:
                continue  # no Python file, or none that an import can name
            module = path.removesuffix("/__init__").replace("/", ".")
            if module in found:
                raise FileFormatError(
                    f"'{self.path}' has two files of one module, '{found[module]}' and '{name}'"
                )
            found[module] = name
        return found

    def read_bytes(self, member: str) -> bytes:
        """Return the content of a member, named below the top folder, verified.

        Raises:
            FileFormatError: there is no such member, or it is damaged.
        """
        entry = self._entry(member)
        with self._section(entry) as file:
            content = file.read()
        digest = hashlib.sha256(content).hexdigest()
        self._check_member(member, entry, len(content), zlib.crc32(content), digest)
        return content

    def read_text(self, member: str) -> str:
        """Return the content of a text member, verified.

        Raises:
            FileFormatError: there is no such member, it is damaged, too large, or not text.
        """
        try:
            return self._read_limited(member).decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileFormatError(f"'{member}' of '{self.path}' is not text: {error}") from error

    def open_member(self, member: str) -> BinaryIO:
        """Return a verified member as an open binary file that can be sought; close it after use.

        Raises:
            FileFormatError: there is no such member, or it is damaged.
        """
        self._verify(member)
        return self._section(self._entry(member))

    def verify_contents(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compare every member with the manifest and with its checksum, in constant memory.

        Args:
            progress: called after each part with the bytes done and the bytes in all.

        Raises:
            FileFormatError: a member is damaged.
        """
        total = sum(entry.size for entry in self._entries.values())
        done = 0
        for member, entry in self._entries.items():
            for size in self._verify_parts(member, entry):
                done += size
                if progress is not None:
                    progress(done, total)

    def _entry(self, member: str) -> Entry:
        if member not in self._entries:
            raise FileFormatError(f"'{self.path}' is no package: it has no '{member}'")
        return self._entries[member]

    def _section(self, entry: Entry) -> BinaryIO:
        try:
            section = Section(self.path, entry.offset, entry.size)
        except OSError as error:
            raise MissingFileError(f"package '{self.path}' cannot be read: {error}") from error
        return io.BufferedReader(section, _CHUNK)

    def _verify(self, member: str) -> None:
        for _ in self._verify_parts(member, self._entry(member)):
            pass

    def _verify_parts(self, member: str, entry: Entry) -> Any:
        """Yield the size of each part that was read; compare when all of them are."""
        digest, crc, size = hashlib.sha256(), 0, 0
        with self._section(entry) as file:
            while part := file.read(_CHUNK):
                digest.update(part)
                crc = zlib.crc32(part, crc)
                size += len(part)
                yield len(part)
        self._check_member(member, entry, size, crc, digest.hexdigest())

    def _check_member(self, member: str, entry: Entry, size: int, crc: int, digest: str) -> None:
        listed = self._listed
        matches = size == entry.size and crc == entry.crc
        if matches and listed is not None and member not in UNLISTED:
            matches = listed[member] == (digest, size)
        if not matches:
            raise FileFormatError(
                f"'{self.path}' is damaged at '{member}': bad checksum; copy or write it again"
            )

    def _read_limited(self, member: str) -> bytes:
        size = self._entry(member).size
        if size > LARGEST_TEXT:
            raise FileFormatError(
                f"'{member}' of '{self.path}' has {size} bytes, allowed are {LARGEST_TEXT}"
            )
        return self.read_bytes(member)

    def _parsed(self, member: str, parse: Callable[[bytes], Any]) -> Any:
        try:
            return parse(self._read_limited(member))
        except TextError as error:
            raise FileFormatError(f"'{member}' of '{self.path}' {error}") from None

    def _yaml_mapping(self, member: str) -> dict[str, Any]:
        content = self._parsed(member, parse_yaml)
        if not isinstance(content, dict):
            raise FileFormatError(f"'{member}' of '{self.path}' is not a mapping")
        return content

    def _read_metadata(self) -> dict[str, Any]:
        if METADATA_MEMBER in self._entries:
            return self._yaml_mapping(METADATA_MEMBER)
        if EAGER_MODEL_MEMBER in self._entries:
            raise FileFormatError(_too_old(self.path, 0))
        raise FileFormatError(
            f"'{self.path}' is a zip file but no package: it has no '{METADATA_MEMBER}'"
        )

    def _checked_format(self) -> int:
        found = self.raw_metadata.get("package_version_id")
        if not isinstance(found, int) or not is_integer(found):
            raise FileFormatError(
                f"'{METADATA_MEMBER}' of '{self.path}' must have an integer "
                f"'package_version_id', found {found!r}"
            )
        if found < OLDEST_FORMAT:
            raise FileFormatError(_too_old(self.path, found))
        if found > NEWEST_READABLE:
            writer = self.raw_metadata.get("created_by") or self.raw_metadata.get("versions")
            needed = self.raw_metadata.get("min_reader")
            raise FileFormatError(
                f"'{self.path}' has package format {found}, this version reads formats "
                f"{OLDEST_FORMAT} to {NEWEST_READABLE}: upgrade nequip-core"
                f"{f' to {needed} or newer' if isinstance(needed, str) else ''} "
                f"(written by {str(writer)[:200]})"
            )
        return found

    def _check_features(self) -> None:
        """Check what a later version of the same format may demand of its reader."""
        names = self.raw_metadata.get("must_understand", [])
        needed = self.raw_metadata.get("min_reader", "0")
        if isinstance(names, list):
            texts = [name for name in names if isinstance(name, str)]
            unknown = [name[:80] for name in texts if name not in UNDERSTOOD]
            if unknown:
                raise FileFormatError(
                    f"'{self.path}' uses {', '.join(map(repr, unknown))}, which nequip-core "
                    f"{__version__} does not understand: upgrade nequip-core"
                )
        if isinstance(needed, str) and needed != __version__ and _is_newer(self.path, needed):
            raise FileFormatError(
                f"'{self.path}' needs nequip-core {needed} or newer, this is {__version__}: "
                "upgrade nequip-core"
            )

    def _check_metadata(self, metadata: dict[str, Any]) -> None:
        fault = metadata_fault(metadata, self.format_version)
        if fault is None and self.format_version >= 3:
            for mode in metadata["available_models"]:
                if mode_member(mode) not in self._entries:
                    fault = f"lists the mode {mode!r}, but there is no '{mode_member(mode)}'"
                    break
        if fault is not None:
            raise FileFormatError(f"'{METADATA_MEMBER}' of '{self.path}' {fault}")

    def _read_manifest(self) -> tuple[bytes, dict[str, tuple[str, int]]]:
        """Return the manifest, as bytes and as what it lists: exactly the other members."""
        for member in REQUIRED_MEMBERS:
            if member not in self._entries:
                raise FileFormatError(f"'{self.path}' is damaged: it has no '{member}'")
        content = self._read_limited(MANIFEST_MEMBER)
        try:
            listed = parse_manifest(content)
        except TextError as error:
            raise FileFormatError(f"'{MANIFEST_MEMBER}' of '{self.path}' {error}") from None
        present = {name: entry.size for name, entry in self._entries.items()}
        for member in sorted(present.keys() - UNLISTED - listed.keys()):
            raise FileFormatError(
                f"'{self.path}' holds '{member}', which is not in its manifest: do not use it"
            )
        for member, (_, size) in sorted(listed.items()):
            if present.get(member) != size or member in UNLISTED:
                found = "has none" if member not in present else f"has {present[member]} bytes"
                raise FileFormatError(
                    f"'{self.path}' is damaged: its manifest lists {size} bytes of "
                    f"{member[:80]!r}, the file {found}"
                )
        return content, listed


def _is_newer(path: Path, needed: str) -> bool:
    from packaging.version import Version

    try:
        return Version(needed) > Version(__version__)
    except ValueError:  # no version, or a part of it has thousands of digits
        raise FileFormatError(
            f"'{METADATA_MEMBER}' of '{path}' must have a version as 'min_reader', "
            f"found {needed[:80]!r}"
        ) from None


def _too_old(path: Path, found: int) -> str:
    return (
        f"'{path}' has package format {found}, whose metadata is a pickle, and cannot be read: "
        "package the model again from its checkpoint with the NequIP that trained it, "
        "upgraded to 0.8 or newer"
    )


def _top_folder(path: Path, entries: list[Entry]) -> str:
    folders = {entry.name.partition("/")[0] for entry in entries}
    if len(folders) != 1:
        raise FileFormatError(
            f"'{path}' is a zip file but no package: a package has one top folder, "
            f"found {len(folders)}"
        )
    return folders.pop()
