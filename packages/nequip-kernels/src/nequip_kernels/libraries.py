"""Compiled kernels, kept by content: ``<folder>/<key>/kernels.so`` with ``key.json`` beside it.

The key is the SHA-256 of source, options, compiler, processor and platform. A folder appears by
renaming, whole or not at all. Native code is loaded from it, so it must be the user's alone.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock

from nequip_core.archive.trust import is_private
from nequip_core.digests import file_digest
from nequip_core.user_settings import cache_or_none
from nequip_kernels.compiler import (
    BuildError,
    build_library,
    command_of_compiler,
    compiler_identity,
    flags,
    machine,
)

__all__ = ["CACHE_VARIABLE", "cache_folder", "provide_libraries"]

CACHE_VARIABLE = "NEQUIP_KERNELS_CACHE"
"""Environment variable: the folder of compiled kernels, or ``off``."""

_LIBRARY = "kernels.so"
_KEY = "key.json"


def cache_folder() -> Path | None:
    """Return the folder of compiled kernels, None if nothing is kept. It need not exist.

    It is what the environment variable ``NEQUIP_KERNELS_CACHE`` says (``off`` for none), or
    ``nequip/kernels`` in the user's cache folder.
    """
    return cache_or_none(CACHE_VARIABLE, "kernels")


def provide_libraries(sources: Mapping[str, str]) -> dict[str, Path]:
    """Return the library of each source, compiled now where it is not kept.

    Several processes that want the same library compile it once. Progress goes to standard error.

    Args:
        sources: C++ source by any name.

    Raises:
        BuildError: there is no compiler, or it fails.
    """
    command = command_of_compiler()
    keys = {name: _key(command, text) for name, text in sources.items()}
    folder = _usable_folder()
    found = {name: kept for name, key in keys.items() if (kept := _kept(folder, key))}
    missing = [name for name in sources if name not in found]
    if not missing:
        return found
    start = time.perf_counter()
    many = "s" if len(missing) > 1 else ""
    _say(f"compiling {len(missing)} kernel{many} with {Path(command[0]).name} ... ")
    done = False
    try:
        with ThreadPoolExecutor(max_workers=min(len(missing), os.cpu_count() or 1)) as pool:
            made = pool.map(lambda name: _made(folder, keys[name], sources[name], command), missing)
            found.update(zip(missing, made, strict=True))
        done = True
    finally:
        _say(f"{time.perf_counter() - start:.1f} s\n" if done else "failed\n")
    return found


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _key(command: tuple[str, ...], source: str) -> dict[str, object]:
    return {
        "source": hashlib.sha256(source.encode()).hexdigest(),
        "compiler": [*command, compiler_identity(command)],
        "flags": list(flags()),
        **machine(),
    }


def _name(key: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _usable_folder() -> Path:
    """Return the folder of kept libraries, or one that lives as long as the process."""
    folder = cache_folder()
    if folder is None:
        return _folder_of_process()
    reason = "it is another user's, or others can write to it"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_private(folder.stat()) and os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            return folder
    except OSError as error:
        reason = error.strerror or str(error)
    _say(f"compiled kernels are not kept in '{folder}': {reason}\n")
    return _folder_of_process()


@functools.cache
def _folder_of_process() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="nequip-kernels-"))
    atexit.register(functools.partial(shutil.rmtree, folder, ignore_errors=True))
    return folder


def _kept(folder: Path, key: Mapping[str, object]) -> Path | None:
    """Return the library of a key, None if it is not there or others can write to it."""
    library = folder / _name(key) / _LIBRARY
    try:
        private = is_private(library.stat()) and is_private(library.parent.stat())
        digest = file_digest(library)
        content = json.loads((library.parent / _KEY).read_text(encoding="utf-8"))
        sound = isinstance(content, dict) and content.get("sha256") == digest
    except (OSError, ValueError):
        return None
    return library if private and sound else None


def _made(folder: Path, key: Mapping[str, object], source: str, command: tuple[str, ...]) -> Path:
    """Return the library of a key, compiled here or meanwhile by another process.

    Raises:
        BuildError: it cannot be compiled or kept.
    """
    final = folder / _name(key)
    try:
        with filelock.FileLock(folder / f"{final.name}.lock", mode=0o600):
            kept = _kept(folder, key)
            if kept is not None:
                return kept
            room = folder / f".{secrets.token_hex(8)}"
            try:
                entry = room / "entry"
                entry.mkdir(mode=0o700, parents=True)
                text = entry / "kernels.cpp"
                text.write_text(source, encoding="utf-8")
                build_library(command, text, entry / _LIBRARY)
                digest = file_digest(entry / _LIBRARY)
                content = json.dumps({"sha256": digest, "key": dict(key)}, indent=1)
                (entry / _KEY).write_text(content, encoding="utf-8")
                if final.exists():  # damaged
                    final.rename(room / "old")
                entry.rename(final)
            finally:
                shutil.rmtree(room, ignore_errors=True)
    except OSError as error:
        raise BuildError(
            f"{shlex.quote(str(folder))} cannot be written to ({error.strerror or error}); set "
            f"{CACHE_VARIABLE} to another folder"
        ) from error
    return final / _LIBRARY
