"""How fast batches go by, and how long the rest will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nequip_core.fields import EDGE_INDEX_KEY, POSITIONS_KEY

__all__ = ["Speed", "duration", "progress_columns", "tracked_batches"]

_WINDOW = 50


class Speed:
    """Throughput over the latest batches, and over everything since the start.

    Attributes:
        batches: number of batches counted.
        atoms: number of atoms in them.
        edges: number of edges in them, 0 where there is no neighbor list.
        seconds: time they took.
    """

    def __init__(self) -> None:
        self.batches = self.atoms = self.edges = 0
        self.seconds = 0.0
        self._latest: deque[tuple[float, int, int]] = deque(maxlen=_WINDOW)
        self._since: float | None = None

    def pause(self) -> None:
        """Leave out the time until the next `start`, which is that of a validation."""
        self._since = None

    def start(self) -> None:
        """Count time from now on, if it is not counted already."""
        if self._since is None:
            self._since = time.monotonic()

    def count(self, batch: Any) -> None:
        """Count a batch that is done."""
        now = time.monotonic()
        taken = 0.0 if self._since is None else now - self._since
        self._since = now
        atoms, edges = _size(batch)
        self.batches += 1
        self.atoms += atoms
        self.edges += edges
        self.seconds += taken
        self._latest.append((taken, atoms, edges))

    @property
    def seconds_per_batch(self) -> float | None:
        """Mean over the latest batches, None before the first."""
        if not self._latest:
            return None
        return sum(item[0] for item in self._latest) / len(self._latest)

    def rates(self) -> tuple[float, float] | None:
        """Return atoms/s and edges/s over the latest batches, None if nothing is known."""
        taken = sum(item[0] for item in self._latest)
        if not taken > 0:
            return None
        atoms = sum(item[1] for item in self._latest)
        return atoms / taken, sum(item[2] for item in self._latest) / taken

    def __str__(self) -> str:
        """Return e.g. ``1.2k atoms/s, 34k edges/s``."""
        rates = self.rates()
        if rates is None:
            return ""
        text = f"{_short(rates[0])} atoms/s"
        return f"{text}, {_short(rates[1])} edges/s" if rates[1] else text


def _size(batch: Any) -> tuple[int, int]:
    """Return the numbers of atoms and edges of a batch."""
    if not isinstance(batch, Mapping):
        return 0, 0
    positions, edges = batch.get(POSITIONS_KEY), batch.get(EDGE_INDEX_KEY)
    return (
        0 if positions is None else int(positions.shape[0]),
        0 if edges is None else int(edges.shape[1]),
    )


def _short(value: float) -> str:
    """Return a number with about three digits and a unit prefix."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Return a duration as H:MM:SS, with days where there are any; empty for None."""
    if seconds is None:
        return ""
    days, rest = divmod(round(seconds), 86_400)
    text = f"{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days} d {text}" if days else text


def progress_columns() -> tuple[Any, ...]:
    """Return the columns of every progress bar; a task has the fields ``speed`` and ``left``."""
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[speed]}"),
    )


def tracked_batches(
    batches: Iterable[Any],
    description: str,
    console: Console | None = None,
    total: int | None = None,
) -> Iterator[Any]:
    """Yield batches, with a progress bar that shows throughput and the time that is left.

    Args:
        batches: batches of frames; with a length, if the time that is left is to be shown.
        description: what is done with them.
        console: where the bar goes, by default standard output.
        total: their number, by default their length.
    """
    if total is None and isinstance(batches, Sized):
        total = len(batches)
    speed = Speed()
    with Progress(*progress_columns(), console=console) as progress:
        task = progress.add_task(description, total=total, speed="", left="")
        speed.start()
        for batch in batches:
            yield batch
            speed.count(batch)
            progress.update(task, advance=1, speed=str(speed), left=_left(speed, total))


def _left(speed: Speed, total: int | None) -> str:
    each = speed.seconds_per_batch
    if total is None or each is None:
        return ""
    return f"{duration(each * (total - speed.batches))} left"
