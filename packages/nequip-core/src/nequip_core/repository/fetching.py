"""A model by its name: from the cache, or downloaded into it."""

from __future__ import annotations

import atexit
import errno
import functools
import logging
import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from nequip_core.archive.reader import PackageReader
from nequip_core.archive.texts import TextError
from nequip_core.digests import file_digest
from nequip_core.errors import (
    ConfigError,
    DownloadError,
    FileFormatError,
    MissingFileError,
    NequIPError,
)
from nequip_core.repository.bar import DownloadBar
from nequip_core.repository.cache import ModelCache
from nequip_core.repository.folder import folder_of_address, newer_in, package_path
from nequip_core.repository.listing import Listing, parse_listing
from nequip_core.repository.names import ModelName, parse_reference
from nequip_core.repository.older_cache import find_older
from nequip_core.repository.settings import (
    REPOSITORY_VARIABLE,
    cache_folder,
    is_permitted,
    older_folders,
    repositories,
    uses_cache,
)
from nequip_core.repository.transfer import Transfer
from nequip_core.repository.unfinished import discard
from nequip_core.repository.vouching import require_known_identity

__all__ = ["fetch_model"]

_LOG = logging.getLogger(__name__)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fetch_model(reference: str) -> Path:
    """Return the package that a reference names, every byte of it checked.

    A model in the cache is used without asking anybody. Another is fetched from the first
    repository that has it. Processes that ask for the same model at once fetch it once.

    Args:
        reference: ``nequip.net:<group>/<model>:<version>``.

    Raises:
        ConfigError: the text is no reference, or the environment is set wrongly.
        MissingFileError: no repository has the model.
        DownloadError: it cannot be fetched, or what came is not what was promised.
        TrustError: what came is not what this name stood for before, or not signed as before.
        MissingDependencyError: it has to be fetched, which takes ``nequip-core[repository]``.
    """
    name = parse_reference(reference)
    if not uses_cache():
        cache = ModelCache(_folder_of_process(os.getpid()))
        return cache.find(name) or _fetch(cache, name)
    cache = ModelCache(cache_folder())
    return cache.find(name) or _find_older(cache, name) or _fetch(cache, name)


@functools.cache
def _folder_of_process(process: int) -> Path:
    """Return a folder that is removed when this process ends; a fork has one of its own."""
    folder = Path(tempfile.mkdtemp(prefix="nequip-models-"))
    atexit.register(_remove, folder, process)
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _find_older(cache: ModelCache, name: ModelName) -> Path | None:
    """Return what the implementation nequip has downloaded, if the name may stand for it."""
    for folder in older_folders():
        found = find_older(folder, name)
        if found is None:
            continue
        try:
            cache.vouch(PackageReader(found), name)
        except NequIPError as error:
            _LOG.warning("'%s' is not used: %s", found, error)
            continue
        return found
    return None


def _fetch(cache: ModelCache, name: ModelName) -> Path:
    bases = repositories()
    try:
        with cache.locked(name):
            # Another process may have fetched it while this one waited.
            return cache.find(name) or _fetch_from(cache, name, bases)
    except OSError as error:
        if isinstance(error, NequIPError):
            raise
        hint = ": make room, the next attempt goes on" if error.errno in _FULL else ""
        raise DownloadError(
            f"'{name}' cannot be kept in '{cache.folder}': {error.strerror or error}{hint}"
        ) from error


def _fetch_from(cache: ModelCache, name: ModelName, bases: list[str]) -> Path:
    failures = []
    for base in bases:
        try:
            is_folder = base.startswith("file:")
            found = (_copy if is_folder else _download)(cache, name, base)
        except DownloadError as error:
            _LOG.info("%s", error)
            failures.append(str(error))
            continue
        if found is not None:
            return found
    if failures:
        raise DownloadError(f"'{name}' cannot be fetched: " + "\n  ".join(failures))
    raise MissingFileError(
        f"no repository has the model '{name}' (asked: {', '.join(bases)}); "
        f"{REPOSITORY_VARIABLE} says which to ask"
    )


def _copy(cache: ModelCache, name: ModelName, base: str) -> Path | None:
    """Take a model from a repository that is a folder; None if it has none of that name."""
    folder = folder_of_address(base)
    source = package_path(folder, name)
    if not folder.is_dir():
        raise DownloadError(f"the repository '{base}' is no folder")
    if not source.is_file():
        return None
    part = cache.part(name)
    discard(part)
    try:
        content = source.open("rb")
    except OSError as error:
        raise DownloadError(f"'{source}' cannot be read: {error.strerror or error}") from error
    with content, part.open("wb") as copy:
        shutil.copyfileobj(content, copy)
    _notice(name, newer_in(folder, name))
    return _accepted(cache, name, part, Listing(base), base)


def _download(cache: ModelCache, name: ModelName, base: str) -> Path | None:
    """Download a model; None if the repository has none of that name."""
    with Transfer() as transfer:
        asked = f"{base}/api/models/download/{quote(str(name), safe='')}"
        answer = transfer.answer(asked)
        if answer is None:
            return None
        content, came_from = answer
        try:
            listing = parse_listing(content, name)
        except TextError as error:
            raise DownloadError(f"the answer of {asked} {error}") from None
        known = cache.record(name)
        if known is not None and listing.identity is not None:
            require_known_identity(name, listing.identity, known.identity)
        address = urljoin(came_from, listing.address)
        if not is_permitted(address, came_from):
            raise DownloadError(f"{asked} names the file {address[:200]!r}: not fetched")
        _LOG.info("downloading '%s' from %s", name, urlsplit(address).hostname)
        part = cache.part(name)
        try:
            with DownloadBar(str(name)) as bar:
                transfer.download(address, part, listing, bar.advance)
        finally:
            _drop_empty(part)
    _notice(name, listing.newer)
    return _accepted(cache, name, part, listing, base)


def _accepted(cache: ModelCache, name: ModelName, part: Path, listing: Listing, base: str) -> Path:
    """Check a complete file against what was stated of it, and keep it; else remove it."""
    try:
        digest = file_digest(part)
        if listing.sha256 is not None and digest != listing.sha256:
            raise DownloadError(
                f"the file of '{name}' is not the one that {base} states\n"
                f"  SHA-256 stated: {listing.sha256}\n  SHA-256 found:  {digest}"
            )
        return cache.accept(part, name, base, listing.identity)
    except (FileFormatError, ConfigError) as error:
        raise DownloadError(f"what {base} has as '{name}' is of no use: {error}") from error
    finally:
        discard(part)


def _drop_empty(part: Path) -> None:
    if part.exists() and part.stat().st_size == 0:
        discard(part)


def _notice(name: ModelName, newer: ModelName | None) -> None:
    if newer is not None:
        _LOG.warning("there is a newer version of '%s': %s", name, newer.reference)
