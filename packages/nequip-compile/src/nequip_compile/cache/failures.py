"""Compilations that failed a short time ago, so that a simulation does not pay at every start.

``<folder>/<key>.failure.json``: the first line of the error, the compiler, and when. It counts for
a day, and only with the same compiler.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nequip_core.errors import CompileError
from nequip_core.files import atomic_path

__all__ = ["FAILURE_SUFFIX", "LIFETIME", "failures", "forget", "raise_known", "remember"]

FAILURE_SUFFIX = ".failure.json"
LIFETIME = 24 * 3600.0  # seconds
# What another try may well survive. Compilers say these in their output.
_PASSING = (
    "no space left",
    "disk quota",
    "disk full",
    "is the disk full",
    "killed",
    "cannot allocate",
    "out of memory",
    "signal 9",
)


def raise_known(folder: Path, name: str, compiler: str) -> None:
    """Raise the error of a compilation that has failed a short time ago.

    Args:
        folder: of the cache.
        name: of the key.
        compiler: the C++ compiler as it is now, see `nequip_compile.cxx.compiler_identity`.

    Raises:
        CompileError: it has.
    """
    content = _read(folder / f"{name}{FAILURE_SUFFIX}")
    if content is None or content["compiler"] != compiler:
        return
    if not 0.0 <= time.time() - content["time"] < LIFETIME:
        return
    first, _, rest = content["error"].partition("\n")
    raise CompileError(
        f"{first} (so it was {_ago(content['time'])}; to try again now: "
        f"nequip-compile cache prune --failures)\n{rest}".rstrip()
    )


def remember(folder: Path, name: str, compiler: str, error: CompileError) -> None:
    """Keep a failure, unless another try may well succeed, or it cannot be written."""
    if _is_passing(error):
        return
    content = {"error": str(error)[:4000], "compiler": compiler, "time": time.time()}
    with contextlib.suppress(OSError), atomic_path(folder / f"{name}{FAILURE_SUFFIX}") as path:
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def forget(folder: Path, name: str) -> None:
    """Remove the failure of a key, if there is one."""
    with contextlib.suppress(OSError):
        (folder / f"{name}{FAILURE_SUFFIX}").unlink()


def failures(folder: Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Yield the file of every failure and its content, None if that cannot be read."""
    for path in sorted(folder.glob(f"*{FAILURE_SUFFIX}")):
        yield path, _read(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            "error": str(content["error"]),
            "compiler": str(content["compiler"]),
            "time": float(content["time"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_passing(error: BaseException) -> bool:
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError | MemoryError):
            return True
        found = found.__cause__
    return any(text in str(error).lower() for text in _PASSING)


def _ago(when: float) -> str:
    minutes = int((time.time() - when) / 60.0)
    return f"{minutes} min ago" if minutes < 120 else f"{minutes // 60} h ago"
