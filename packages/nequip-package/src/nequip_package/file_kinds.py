"""What a file is, told by the names of its members: before torch is imported, nothing unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path

from nequip_core.archive.format import METADATA_MEMBER, PACKAGE_SUFFIX
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import FileFormatError

__all__ = ["require_content_of_name", "require_foreign"]

_CHECKPOINT_SUFFIX = ".ckpt"
_PICKLE = "/data.pkl"  # of a checkpoint, as torch.save writes it
_OWN_CODE = "nequip_model"
# A key of the checkpoints of this project, see nequip_model.checkpoint.
_OWN_KEY = b"nequip_checkpoint_version"


def require_content_of_name(path: Path) -> None:
    """Check that a file is not a package named as a checkpoint, or the other way round.

    Files that are neither pass: who reads them says what is wrong.

    Raises:
        FileFormatError: its name has the wrong ending.
    """
    names = _member_names(path)
    is_package = any(name.partition("/")[2] == METADATA_MEMBER for name in names)
    is_checkpoint = not is_package and any(name.endswith(_PICKLE) for name in names)
    if is_package and path.name.endswith(_CHECKPOINT_SUFFIX):
        raise FileFormatError(
            f"'{path}' is a package, not a checkpoint: rename it so that it ends in "
            f"{PACKAGE_SUFFIX}"
        )
    if is_checkpoint and path.name.endswith(PACKAGE_SUFFIX):
        raise FileFormatError(
            f"'{path}' is a zip file but no package: it looks like a checkpoint; rename it so that "
            f"it ends in {_CHECKPOINT_SUFFIX}"
        )


def require_foreign(path: Path) -> None:
    """Check that another program wrote a package or checkpoint.

    Raises:
        FileFormatError: this project wrote it, or it is a damaged package.
    """
    if path.name.endswith(PACKAGE_SUFFIX):
        modules = PackageReader(path).sources()
        is_own = any(module.partition(".")[0] == _OWN_CODE for module in modules)
    else:
        is_own = _OWN_KEY in _checkpoint_pickle(path)
    if is_own:
        raise FileFormatError(
            f"'{path}' holds a model of this project already, there is nothing to convert: "
            "nequip-package build makes a package of it"
        )


def _member_names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []


def _checkpoint_pickle(path: Path) -> bytes:
    """Return the pickle of a checkpoint as bytes, empty if there is none that can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((n for n in archive.namelist() if n.endswith(_PICKLE)), None)
            return archive.read(name) if name else b""
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return b""
