"""Public data files: downloaded once, checked, and taken out of their archives by name."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import shutil
import ssl
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from nequip_core.errors import DataError, MissingFileError
from nequip_core.files import atomic_path

__all__ = ["Source", "fetch"]

_LOG = logging.getLogger(__name__)
_CHUNK = 2**20
_TIMEOUT = 60.0
_NETWORK_ERRORS = (OSError, http.client.HTTPException)
_ARCHIVE_ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError)


@dataclass(frozen=True)
class Source:
    """Where files are published.

    Args:
        url: address of a file or archive. Without a checksum it must be https.
        file: name that the download has when it is put into the folder of the data by hand.
        sha256: checksum of the download, None where the publisher's is not known; then the
            connection, whose certificate is verified, vouches for it.
        inside: name of an archive in the archive, for one that is packed twice.
        by_hand: set where the publisher lets only people download.
    """

    url: str
    file: str
    sha256: str | None = None
    inside: str | None = None
    by_hand: bool = False


def fetch(source: Source, folder: str, files: Sequence[str]) -> None:
    """Make sure that files are in a folder, downloading what has them where one is missing.

    A download that somebody has put into the folder under its own name is used instead. Files
    appear whole or not at all; the download itself is not kept.

    Args:
        source: where they are published.
        folder: where they belong.
        files: their paths in the folder, which are the ends of their names in the archive. With a
            single file, the download may be that file itself.

    Raises:
        MissingFileError: they cannot be downloaded; the message says how to do it by hand.
        DataError: what was downloaded has another checksum, or does not hold the files.
    """
    target = Path(folder).expanduser()
    if _all_there(target, files):
        return
    target.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(target / f".{source.file}.lock"):
        # Another process may have done it meanwhile.
        if _all_there(target, files):
            return
        placed = target / source.file
        if placed.is_file():
            _take(placed, source, target, files)
            return
        with tempfile.TemporaryDirectory(prefix=f".{source.file}.", dir=target) as temporary:
            download = Path(temporary) / source.file
            _download(source, download, placed)
            _take(download, source, target, files)


def _all_there(folder: Path, files: Sequence[str]) -> bool:
    return all((folder / file).is_file() for file in files)


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait for other processes that fetch the same; a process that dies lets go."""
    try:
        import fcntl
    except ImportError:  # not on Windows; there a file may be downloaded twice
        yield
        return
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    path.unlink(missing_ok=True)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirection to https only."""

    def redirect_request(self, request: Any, file: Any, code: Any, *rest: Any) -> Any:
        new = super().redirect_request(request, file, code, *rest)
        if new is not None and urlsplit(new.full_url).scheme != "https":
            raise urllib.error.URLError(f"redirected to '{new.full_url}', which is not https")
        return new


def _secure_opener() -> urllib.request.OpenerDirector:
    """Return an opener that verifies certificates and stays with https."""
    https = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    return urllib.request.build_opener(https, _SafeRedirects)


def _download(source: Source, target: Path, placed: Path) -> None:
    """Write what is at the address of a source to `target`, and check it."""
    by_hand = f"download {source.url} by hand, put it at '{placed}', and start again"
    if source.by_hand:
        raise MissingFileError(f"this data set cannot be downloaded automatically: {by_hand}")
    secure = urlsplit(source.url).scheme == "https"
    if not secure and source.sha256 is None:
        raise MissingFileError(f"{source.url} is neither https nor has a known checksum: {by_hand}")
    opener = _secure_opener() if secure else urllib.request.build_opener()
    opener.addheaders = [("User-Agent", "nequip-train")]
    _LOG.info("downloading %s", source.url)
    try:
        with opener.open(source.url, timeout=_TIMEOUT) as response, target.open("wb") as file:
            size, digest = _copied(response, file)
    except _NETWORK_ERRORS as error:
        raise MissingFileError(
            f"{source.url} cannot be downloaded ({error}); without a network, {by_hand}"
        ) from error
    _LOG.info("downloaded %s: %d bytes, sha256 %s", source.url, size, digest)
    if source.sha256 not in (None, digest):
        raise DataError(
            f"{source.url} has the sha256 {digest}, expected {source.sha256}: the download was "
            f"damaged or the file has changed. Nothing was kept; try again, or {by_hand}"
        )


def _copied(response: Any, file: IO[bytes]) -> tuple[int, str]:
    """Write a response to a file; return its size and sha256."""
    length = response.headers.get("Content-Length")
    expected = int(length) if length else None
    digest, size = hashlib.sha256(), 0
    with _progress(expected) as advance:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            advance(len(chunk))
    if expected is not None and size != expected:
        raise OSError(f"the connection ended after {size} of {expected} bytes")
    return size, digest.hexdigest()


@contextlib.contextmanager
def _progress(total: int | None) -> Iterator[Any]:
    """Yield a function that takes numbers of bytes; they are shown on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _size: None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress

    columns = (*Progress.get_default_columns(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("downloading", total=total)
        yield lambda size: progress.advance(task, size)


def _take(download: Path, source: Source, folder: Path, files: Sequence[str]) -> None:
    """Put the files of a download into a folder.

    Only members with the wanted names are read, and each is written where we want it, so no name
    in an archive can lead anywhere else.
    """
    targets = {file: folder / file for file in files}
    try:
        if source.inside is not None and _is_archive(download):
            with tempfile.TemporaryDirectory(prefix=f".{source.file}.", dir=folder) as temporary:
                inner = Path(temporary) / "inside"
                _extract(download, {source.inside: inner}, source)
                _extract(inner, targets, source)
        elif len(files) == 1 and not _is_archive(download):
            with atomic_path(folder / files[0]) as path:
                shutil.copyfile(download, path)
        else:
            _extract(download, targets, source)
    except _ARCHIVE_ERRORS as error:
        raise DataError(
            f"'{download.name}' of {source.url} cannot be unpacked: {error}; delete it if it lies "
            f"in '{folder}', and start again"
        ) from error


def _is_archive(path: Path) -> bool:
    # An npz file is a zip file by itself.
    return path.suffix != ".npz" and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def _extract(archive: Path, wanted: Mapping[str, Path], source: Source) -> None:
    """Write members of a zip or tar file, found by the end of their names, to paths."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            names = [info.filename for info in opened.infolist() if not info.is_dir()]
            for name, target in _members(names, wanted, source).items():
                with opened.open(name) as content:
                    _write(content, target)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            names = [member.name for member in tar.getmembers() if member.isfile()]
            for name, target in _members(names, wanted, source).items():
                # None is the answer for a folder or device, which `names` leaves out.
                if (member := tar.extractfile(name)) is not None:
                    with member:
                        _write(member, target)
    else:
        raise DataError(f"{source.url} gave neither a zip nor a tar file, but '{archive.name}'")


def _members(names: Sequence[str], wanted: Mapping[str, Path], source: Source) -> dict[str, Path]:
    """Return the member of each wanted file.

    Raises:
        DataError: there is none, or more than one.
    """
    members = {}
    for file, target in wanted.items():
        ends = [name for name in names if f"/{name}".endswith(f"/{file}")]
        if len(ends) != 1:
            found = f"{len(ends)} files" if ends else "no file"
            raise DataError(
                f"the download of {source.url} has {found} of the name '{file}', expected one "
                f"(it has {', '.join(names[:10])}{', ...' if len(names) > 10 else ''})"
            )
        members[ends[0]] = target
    return members


def _write(content: IO[bytes], target: Path) -> None:
    with atomic_path(target) as path, path.open("wb") as file:
        shutil.copyfileobj(content, file, _CHUNK)
