"""Where a command writes: checked before anything slow begins."""

from __future__ import annotations

import os
from pathlib import Path

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import ConfigError, PackagingError
from nequip_core.files import require_output_suffix
from nequip_package.progress import Report

__all__ = ["note_signatures", "require_other_file", "unwritable"]


def require_other_file(source: str | os.PathLike[str], output: str | os.PathLike[str]) -> Path:
    """Return the output path if it is a package's name and another file than `source`.

    Raises:
        FileFormatError: its name does not end in ``.nequip.zip``, or a folder is in its place.
        ConfigError: it is `source`.
        PackagingError: its folder cannot be written.
    """
    target = require_output_suffix(output, PACKAGE_SUFFIX, "package")
    same = target.resolve() == Path(source).resolve()
    if same or (target.exists() and Path(source).exists() and target.samefile(source)):
        raise ConfigError(f"input and output must differ, both are '{output}': name another output")
    _require_writable_folder(target)
    return target


def note_signatures(package: PackageReader, report: Report) -> None:
    """Say that a package made from a signed one comes without the signatures."""
    if package.signatures():
        note = getattr(report, "note", report)
        note("signatures are of the old package and were left out")


def unwritable(target: Path, error: OSError) -> PackagingError:
    """Return the error of a package that cannot be written; names of scratch files are left out."""
    return PackagingError(f"cannot write '{target}': {error.strerror or error}")


def _require_writable_folder(target: Path) -> None:
    """Check the folder of `target`, or the nearest above it that exists."""
    folder = next(above for above in target.absolute().parents if above.exists())
    if not folder.is_dir():
        raise PackagingError(f"cannot write '{target}': '{folder}' is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PackagingError(f"cannot write '{target}': the folder '{folder}' is not writable")
