"""The progress of a command on standard error: a bar on a terminal, a line now and then if not."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["CommandProgress"]

_LINE_EVERY = 30.0  # s between two lines where there is no terminal
_REFRESH = 0.2  # s between two changes of the bar


class CommandProgress:
    """Shows how far something is; use as a context manager.

    Args:
        title: what is going on.
        total: units in all, None where that is not known.
        console: where to; default standard error.
    """

    def __init__(self, title: str, total: float | None, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._title = title
        self._total = total
        self._start = self._shown = time.monotonic()
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> CommandProgress:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, note="")
        return self

    def __exit__(self, *unused: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, done: float, note: str = "") -> None:
        """Show how far it is.

        Args:
            done: units that are done, of the total.
            note: what else to say, a speed for instance.
        """
        now = time.monotonic()
        if self._bar is not None:
            if now - self._shown >= _REFRESH:
                self._shown = now
                self._bar.update(self._task, completed=done, note=note)
        elif now - self._shown >= _LINE_EVERY:
            self._shown = now
            share = f" {100 * done / self._total:.0f} %," if self._total else ""
            line = f"{self._title}:{share} {note}, {now - self._start:.0f} s"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
