"""Lines on standard error that say what a long command is doing, and how long it took."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

__all__ = ["say", "stage"]


@contextlib.contextmanager
def stage(title: str) -> Iterator[None]:
    """Print ``title ...`` now, and the elapsed time once the block ends without an exception."""
    start = time.perf_counter()
    sys.stderr.write(f"{title} ... ")
    sys.stderr.flush()
    done = False
    try:
        yield
        done = True
    finally:
        text = f"{time.perf_counter() - start:.1f} s" if done else "failed"
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def say(text: str) -> None:
    """Print lines of text on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
