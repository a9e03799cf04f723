"""A bar on standard error that shows how much of a download is there, on a terminal only."""

from __future__ import annotations

import sys
import time
from typing import TextIO

__all__ = ["DownloadBar"]

_WIDTH = 30
_BETWEEN_UPDATES = 0.1


class DownloadBar:
    """Draws the progress of one download; use as a context manager.

    Args:
        title: what is downloaded.
        stream: where to; default standard error.
    """

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self._title = title
        self._stream = sys.stderr if stream is None else stream
        self._drawn = 0.0
        self._longest = 0

    def __enter__(self) -> DownloadBar:
        return self

    def __exit__(self, *unused: object) -> None:
        if self._longest:
            self._stream.write(f"\r{' ' * self._longest}\r")
            self._stream.flush()

    def advance(self, done: int, total: int | None) -> None:
        """Draw the bar.

        Args:
            done: bytes that are there.
            total: bytes in all, if known.
        """
        now = time.monotonic()
        if not self._stream.isatty() or now - self._drawn < _BETWEEN_UPDATES:
            return
        self._drawn = now
        text = f"{done / 1e6:.1f} MB"
        if total:
            filled = min(_WIDTH * done // total, _WIDTH)
            text = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {text} of {total / 1e6:.1f} MB"
        line = f"{self._title} {text}"
        self._stream.write(f"\r{line:<{self._longest}}")
        self._stream.flush()
        self._longest = max(self._longest, len(line))
