"""Progress of a long command on standard error: steps with their times, and bars on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

__all__ = ["Progress", "Report"]

Report = Callable[[str], None]
"""What is called with one line before each step of something long, a `Progress` for instance."""

_WIDTH = 30
_BETWEEN_UPDATES = 0.1
# Shorter steps show no bar, which would only flicker.
_BEFORE_FIRST_BAR = 0.5


class Progress:
    """Says what a command is doing; calling it with a line starts the next step.

    Lines go to any standard error; the bar of a step is drawn on a terminal only.

    Args:
        stream: where to; default standard error.
        clock: seconds since some time, for tests.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._start = self._step = self._drawn = clock()
        self._has_bar = False

    def __call__(self, line: str) -> None:
        """Print a line that says what starts now, with the time since the command started."""
        self.end()
        self._step = self._clock()
        self._stream.write(f"[{self._step - self._start:5.1f} s] {line} ...\n")
        self._stream.flush()

    def note(self, text: str) -> None:
        """Print a remark that does not start a step."""
        self.end()
        self._stream.write(f"note: {text}\n")
        self._stream.flush()

    def advance(self, done: int, total: int) -> None:
        """Draw how much of the step is done.

        Args:
            done: units done, bytes for instance.
            total: units in all.
        """
        now = self._clock()
        if not self._stream.isatty() or now - self._step < _BEFORE_FIRST_BAR:
            return
        if done < total and now - self._drawn < _BETWEEN_UPDATES:
            return
        self._drawn, self._has_bar = now, True
        filled, percent = _WIDTH * done // max(total, 1), 100 * done // max(total, 1)
        bar = f"{'#' * filled}{'.' * (_WIDTH - filled)}"
        self._stream.write(f"\r          [{bar}] {percent:3d} %")
        self._stream.flush()

    def written(self, path: Path) -> None:
        """Print that a file has been written, and its size."""
        self.end()
        self._stream.write(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)\n")
        self._stream.flush()

    def end(self) -> None:
        """Remove the bar, if there is one."""
        if self._has_bar:
            self._stream.write(f"\r{' ' * (_WIDTH + 20)}\r")
            self._stream.flush()
        self._has_bar = False
