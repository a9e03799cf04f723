"""One process makes what all of them need."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["alone", "lock_file"]


def lock_file(path: Path) -> Path:
    """Return the empty file beside a path that stands for the making of it."""
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def alone(path: Path, before_waiting: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time go on, for what it makes at a path.

    The operating system ends this with the process, however that ends. Where a file system has no
    locks, all go on: what they make appears whole anyway.

    Args:
        path: what is made.
        before_waiting: called once if another process is there.

    Raises:
        OSError: nothing can be written beside the path.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(lock_file(path), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            before_waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # no locks here
        yield
    finally:
        os.close(lock)
