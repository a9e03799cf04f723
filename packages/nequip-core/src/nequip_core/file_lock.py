"""A lock between processes that ends with the process that holds it, however it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: what two processes make at once is kept once
    fcntl = None  # type: ignore[assignment]

__all__ = ["locked"]


@contextlib.contextmanager
def locked(path: Path, before_waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of this path inside.

    The operating system takes it from a process that dies, so a file that is left behind locks
    nothing. Where the file system has no locks, none is held: entries appear whole anyway.

    Args:
        path: a file that exists while somebody holds or awaits the lock.
        before_waiting: called once if another process holds it.
    """
    if fcntl is None:
        yield
        return
    descriptor = -1
    try:
        while descriptor < 0:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            if not _acquire(descriptor, before_waiting):
                break
            if not _is_still(descriptor, path):
                # Whoever held it has removed the file: what is locked has no name any more.
                os.close(descriptor)
                descriptor = -1
        yield
    finally:
        if descriptor >= 0:
            if _is_still(descriptor, path):
                with contextlib.suppress(OSError):
                    path.unlink()
            os.close(descriptor)


def _acquire(descriptor: int, before_waiting: Callable[[], None]) -> bool:
    """Wait for the lock; return False where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        before_waiting()
    except OSError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
