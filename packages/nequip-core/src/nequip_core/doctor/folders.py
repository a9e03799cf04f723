"""Folders that the layers and torch write to: where, how large, and whether that can fail."""

from __future__ import annotations

import getpass
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nequip_core.archive.trust import _path, is_private
from nequip_core.doctor.findings import BROKEN, INFO, OK, WARNING, Finding
from nequip_core.user_settings import cache_or_none, user_caches

__all__ = ["look_at_folders"]

_MOST_FILES = 20_000  # a cache on a network file system must not hold up the report
# Native code is loaded from these: (variable that places them, folder in the cache of the layers).
_NATIVE = {
    "compiled models": ("NEQUIP_COMPILE_CACHE", "compiled"),
    "compiled kernels": ("NEQUIP_KERNELS_CACHE", "kernels"),
}


def look_at_folders() -> list[Finding]:
    """Return each cache, the list of trusted packages, and locks that were left behind."""
    findings = [_look_at_trusted()]
    findings += [_look_at_folder(title, path) for title, path in _folders()]
    return findings + list(_locks())


def _folders() -> Iterator[tuple[str, Path]]:
    yield "caches of the layers", user_caches()
    for title, (variable, folder) in _NATIVE.items():
        native = cache_or_none(variable, folder)
        if native is not None:
            yield title, native
    statistics = cache_or_none("NEQUIP_STATISTICS_CACHE", "statistics")
    if statistics is not None and "NEQUIP_STATISTICS_CACHE" in os.environ:
        yield "statistics of data sets", statistics
    frames = cache_or_none("NEQUIP_FRAME_CACHE", "frames")
    if frames is not None and "NEQUIP_FRAME_CACHE" in os.environ:
        yield "frames with neighbor lists", frames
    models = os.environ.get("NEQUIP_CACHE_DIR")
    yield "models (implementation nequip)", Path(models or Path.home() / ".nequip").expanduser()
    yield "torch: compiled code", _inductor_folder()
    yield "torch: built extensions", _extensions_folder()
    yield "temporary files", Path(tempfile.gettempdir())


def _inductor_folder() -> Path:
    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if given:
        return Path(given)
    user = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
    return Path(tempfile.gettempdir()) / f"torchinductor_{user}"


def _extensions_folder() -> Path:
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"


def _look_at_trusted() -> Finding:
    title, path = "list of trusted packages", _path()
    if not path.exists():
        parent = _nearest(path)
        if not os.access(parent, os.W_OK):
            advice = f"make '{parent}' writable, or set XDG_DATA_HOME"
            return Finding(title, WARNING, f"{path}: cannot be made", advice)
        return Finding(title, INFO, f"{path}: not there; nothing was packaged by this user yet")
    if path.is_symlink() or not path.is_file():
        return Finding(title, BROKEN, f"{path}: not a plain file", "remove it")
    if not (is_private(path.stat()) and is_private(path.parent.stat())):
        advice = f"chmod go-w {path} {path.parent}; both must be yours"
        return Finding(title, BROKEN, f"{path}: ignored, others can write to it", advice)
    if not os.access(path, os.R_OK | os.W_OK):
        advice = f"chmod u+rw {path}"
        return Finding(title, BROKEN, f"{path}: cannot be read and written", advice)
    count = len(path.read_text(encoding="ascii", errors="replace").split())
    return Finding(title, OK, f"{path}: {count} packages")


def _look_at_folder(title: str, path: Path) -> Finding:
    if not path.exists():
        parent = _nearest(path)
        if os.access(parent, os.W_OK):
            return Finding(title, INFO, f"{path}: not there; made when needed")
        return Finding(title, WARNING, f"{path}: cannot be made in '{parent}'", _ADVICE)
    if not path.is_dir():
        return Finding(title, BROKEN, f"{path}: not a folder", "remove it")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return Finding(title, BROKEN, f"{path}: cannot be written", _ADVICE)
    if title in _NATIVE and not is_private(path.stat()):
        advice = f"chmod go-w {path}; it must be yours, or set {_NATIVE[title][0]}"
        return Finding(title, BROKEN, f"{path}: not used, others can write to it", advice)
    free = _free(path)
    if path == Path(tempfile.gettempdir()):
        return Finding(title, OK, f"{path}; {free}")
    return Finding(title, OK, f"{path}: {_size(path)}; {free}")


_ADVICE = "correct its owner and permissions, or set the variable that names another place"


def _nearest(path: Path) -> Path:
    """Return the innermost folder above `path` that is there."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def _size(path: Path) -> str:
    total = count = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_size
            except OSError:
                continue  # removed meanwhile
            count += 1
        if count > _MOST_FILES:
            return f"more than {count} files, {total / 1e6:.1f} MB"
    return f"{count} files, {total / 1e6:.1f} MB"


def _free(path: Path) -> str:
    import shutil

    return f"{shutil.disk_usage(path).free / 1e9:.1f} GB free"


def _locks() -> Iterator[Finding]:
    """Yield the locks of builds of extensions: a build that died leaves one, and others wait."""
    for lock in sorted(_extensions_folder().glob("*/*/lock"))[:8]:
        advice = f"if no build is running: rm {lock}"
        yield Finding("torch: built extensions", WARNING, f"{lock}: whoever needs it waits", advice)
