"""Download and unpacking of data sets, with the documented names."""

from __future__ import annotations

import os
import shutil
import tarfile
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

from nequip_core.errors import FileFormatError, MissingFileError
from nequip_core.files import atomic_path

__all__ = ["download_url", "extract_tar", "extract_zip"]


def download_url(url: str, folder: str, filename: str | None = None) -> str:
    """Return the path of a downloaded file; one that is there already is not loaded again.

    The connection is verified, and a file that is cut short never gets its name.

    Args:
        url: address, ``https://`` for instance.
        folder: where to put the file; made if missing.
        filename: its name; default the last part of the address.

    Raises:
        MissingFileError: the address cannot be read.
    """
    name = filename or urllib.parse.urlparse(url).path.rpartition("/")[2]
    if not name:
        raise MissingFileError(f"'{url}' names no file; give a filename")
    final = Path(folder) / name
    if final.exists():
        return str(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            urllib.request.urlopen(url) as source,  # noqa: S310 - the caller chooses the scheme
            atomic_path(final) as path,
            Path(path).open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
    except OSError as error:
        raise MissingFileError(f"cannot download '{url}': {error}") from error
    return str(final)


def extract_zip(path: str, folder: str) -> None:
    """Unpack a zip archive into a folder.

    Raises:
        FileFormatError: the file is not a zip archive.
        MissingFileError: there is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # zipfile drops what would lead out of the folder.
            archive.extractall(folder)  # noqa: S202
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no archive '{os.fspath(path)}'") from error
    except zipfile.BadZipFile as error:
        raise FileFormatError(f"'{os.fspath(path)}' is not a zip archive: {error}") from error


def extract_tar(path: str, folder: str, mode: str = "r:gz") -> None:
    """Unpack a tar archive into a folder; nothing is written outside of it.

    Args:
        path: the archive.
        folder: made if missing.
        mode: of `tarfile.open`: ``r:gz``, ``r:xz``, ``r`` ...

    Raises:
        FileFormatError: the file is not such an archive, or a member points out of the folder.
        MissingFileError: there is no such file.
    """
    options: Any = {"mode": mode}
    try:
        with tarfile.open(path, **options) as archive:
            archive.extractall(folder, filter="data")
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no archive '{os.fspath(path)}'") from error
    except tarfile.TarError as error:
        raise FileFormatError(
            f"'{os.fspath(path)}' cannot be unpacked with mode '{mode}': {error}"
        ) from error
