"""The cache of models: packages by their identities, and which name stands for which.

``packages/<identity>.nequip.zip`` holds each package once; ``names/<hash of the name>.json`` says
what a name stands for, and goes on saying so when the package is removed: what is fetched later has
to be the same. ``parts`` holds unfinished downloads, ``locks`` the locks between processes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nequip_core.archive.format import DIGEST, PACKAGE_SUFFIX
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.texts import TextError, parse_json
from nequip_core.errors import ConfigError, FileFormatError, MissingDependencyError, NequIPError
from nequip_core.files import atomic_path
from nequip_core.repository.names import ModelName, parse_name
from nequip_core.repository.unfinished import discard
from nequip_core.repository.vouching import require_known_identity, require_vouched

if TYPE_CHECKING:
    from filelock import BaseFileLock as FileLock

__all__ = ["ModelCache", "Record"]

_LOG = logging.getLogger(__name__)
_LARGEST_RECORD = 2**16
_SECONDS_UNTIL_NOTICE = 3.0
_PACKAGES = "packages"  # its lock is held where a package and its name come and go together


@dataclass(frozen=True)
class Record:
    """What a name stands for.

    Attributes:
        name: the model, ``<group>/<model>:<version>``.
        identity: identity of its package.
        source: where it came from.
        signers: public keys, base64, whose valid signatures the package has.
    """

    name: str
    identity: str
    source: str = ""
    signers: tuple[str, ...] = ()


class ModelCache:
    """A cache in a folder, which need not exist.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packages = folder / "packages"
        self._names = folder / "names"

    def find(self, name: ModelName) -> Path | None:
        """Return the package of a name, every byte of it checked; None if it is not there.

        A damaged one is reported and counts as not there.
        """
        record = self.record(name)
        if record is None:
            return None
        path = self.package(record)
        if not path.exists():
            return None
        try:
            self.check(record)
        except NequIPError as error:
            _LOG.warning("the cached file of '%s' is not used: %s", name, error)
            return None
        return path

    def package(self, record: Record) -> Path:
        """Return where the package of a record is, or would be."""
        return self.packages / f"{record.identity}{PACKAGE_SUFFIX}"

    def check(self, record: Record) -> None:
        """Compare a package in the cache with what its name stands for, byte for byte.

        Raises:
            FileFormatError: it is damaged, or another one.
            MissingFileError: it is not there.
        """
        package = PackageReader(self.package(record))
        package.verify_contents()
        if package.identity != record.identity:
            raise FileFormatError(
                f"'{package.path}' has the identity {package.identity}, not {record.identity}"
            )

    def record(self, name: ModelName) -> Record | None:
        """Return what a name stands for, or None if it is not known."""
        found = _read_record(self._names / f"{name.key}.json")
        return found if found is not None and found.name == str(name) else None

    def records(self) -> list[Record]:
        """Return what every known name stands for, sorted by name."""
        found = map(_read_record, self._names.glob("*.json"))
        return sorted((record for record in found if record is not None), key=lambda r: r.name)

    def part(self, name: ModelName) -> Path:
        """Return where the unfinished download of a model is; its folder is made."""
        parts = self.folder / "parts"
        parts.mkdir(mode=0o700, parents=True, exist_ok=True)
        return parts / f"{name.key}{PACKAGE_SUFFIX}"

    @contextlib.contextmanager
    def locked(self, name: ModelName) -> Iterator[None]:
        """Let one process at a time go on with this name.

        Raises:
            MissingDependencyError: `filelock` is not installed.
        """
        lock = self._lock(name.key)
        if not _taken(lock, _SECONDS_UNTIL_NOTICE):
            _LOG.warning("waiting for another process, which is fetching '%s'", name)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _lock(self, of: str) -> FileLock:
        try:
            from filelock import FileLock
        except ImportError as error:
            raise MissingDependencyError(
                f"the cache of models needs filelock: pip install 'nequip-core[repository]' "
                f"({error})"
            ) from error
        locks = self.folder / "locks"
        locks.mkdir(mode=0o700, parents=True, exist_ok=True)
        return FileLock(locks / f"{of}.lock")

    def add(self, file: Path, name: ModelName, source: str = "") -> Path:
        """Copy a package into the cache under a name, and return the copy.

        Raises:
            FileFormatError: the file is no package, or a damaged one.
            TrustError: the name stands for another package, or the signature is not the one needed.
        """
        with self.locked(name):
            PackageReader(file).verify_contents()
            part = self.part(name)
            discard(part)
            try:
                shutil.copyfile(file, part)
                return self.accept(part, name, source)
            finally:
                discard(part)

    def accept(self, part: Path, name: ModelName, source: str, stated: str | None = None) -> Path:
        """Check a complete file and move it into the cache under a name; return where it is.

        Args:
            part: the file, on the same file system; call inside `locked`.
            name: what it is to be found by.
            source: where it came from.
            stated: the identity that is stated there, if one is.

        Raises:
            FileFormatError: it is no package, a damaged one, or another one than stated.
            TrustError: the name stands for another package, or the signature is not the one needed.
        """
        package = PackageReader(part)
        package.verify_contents()
        if stated is not None and package.identity != stated:
            raise FileFormatError(
                f"its identity is {package.identity}, and {stated} is what is stated"
            )
        record = Record(str(name), package.identity, source, self.vouch(package, name))
        self.packages.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = self.package(record)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        with self._lock(_PACKAGES):  # a package without a name is for `prune`
            part.replace(target)
            with atomic_path(self._names / f"{name.key}.json") as path:
                path.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        return target

    def vouch(self, package: PackageReader, name: ModelName) -> tuple[str, ...]:
        """Return who signed a package, after checking that it may be used under a name.

        Raises:
            TrustError: the name stands for another package, or the signature is not the one needed.
            MissingDependencyError: a signature has to be checked without `cryptography`.
        """
        before = self.record(name)
        require_known_identity(name, package.identity, before.identity if before else None)
        family = f"{name.group}/{name.model}:"
        earlier = {
            key
            for record in self.records()
            if record.name.startswith(family)
            for key in record.signers
        }
        return require_vouched(package, name, earlier)

    def forget(self, name: ModelName) -> None:
        """Let a name stand for nothing; its package stays until `prune`."""
        (self._names / f"{name.key}.json").unlink(missing_ok=True)

    def prune(self, everything: bool = False) -> list[tuple[Path, int]]:
        """Remove unfinished downloads and packages without a name, or all packages.

        What names stand for is kept, and downloads that another process is at.

        Returns:
            each removed file and its size in bytes.

        Raises:
            MissingDependencyError: `filelock` is not installed.
        """
        removed: list[tuple[Path, int]] = []
        for path in sorted((self.folder / "parts").glob("*")):
            lock = self._lock(path.name.partition(".")[0])
            if not _taken(lock, 0):
                _LOG.warning("'%s' stays: another process is downloading it", path)
                continue
            try:
                _remove(path, removed)
            finally:
                lock.release()
        if self.packages.is_dir():
            with self._lock(_PACKAGES):
                kept = set() if everything else {self.package(one) for one in self.records()}
                for path in sorted(self.packages.glob(f"*{PACKAGE_SUFFIX}")):
                    if path not in kept:
                        _remove(path, removed)
        return removed


def _taken(lock: FileLock, seconds: float) -> bool:
    """Return whether a lock could be taken within this time."""
    try:
        lock.acquire(timeout=seconds)
    except TimeoutError:  # of filelock, which is one of these
        return False
    return True


def _remove(path: Path, removed: list[tuple[Path, int]]) -> None:
    with contextlib.suppress(FileNotFoundError):
        removed.append((path, path.stat().st_size))
        path.unlink()


def _read_record(path: Path) -> Record | None:
    """Return the record in a file; None if there is none or it is damaged."""
    try:
        if path.stat().st_size > _LARGEST_RECORD:
            return None
        found = parse_json(path.read_bytes())
        name, identity, source = found["name"], found["identity"], found["source"]
        signers = tuple(found["signers"])
        parse_name(name)
    except (OSError, TextError, ConfigError, KeyError, TypeError, AttributeError):
        return None
    texts = [identity, source, *signers]
    if not all(isinstance(text, str) for text in texts) or not DIGEST.fullmatch(identity):
        return None
    return Record(name, identity, source, signers)
