"""``metrics.jsonl`` and ``metrics.csv``: every logged value, without any service or library."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from nequip_core.files import atomic_path

__all__ = ["CSV_FILE", "JSONL_FILE", "MetricsFiles", "read_metrics"]

_LOG = logging.getLogger(__name__)
JSONL_FILE = "metrics.jsonl"
CSV_FILE = "metrics.csv"
_FIRST = ("step", "epoch")


class MetricsFiles(Logger):
    """A Lightning logger that appends a line of JSON a call, and the same to a table.

    A line is on disk when the call returns, so a kill loses nothing. A file that cannot be written
    is one warning, not the end of the run.

    Args:
        folder: where the two files go.
        default_folder: what callbacks without a folder of their own are told to use.
        has_table: whether to write the table; another logger may write its own of that name.

    Attributes:
        stage: ``val`` or ``test`` while such a stage runs, None during the training.
    """

    def __init__(self, folder: Path, default_folder: str, has_table: bool = True) -> None:
        super().__init__()
        self.folder = folder
        self._default_folder = default_folder
        self._has_table = has_table
        self.stage: str | None = None
        self._columns: list[str] = []
        self._broken = False

    @property
    def name(self) -> str:
        """A name that Lightning asks for."""
        return "nequip"

    @property
    def version(self) -> str:
        """A version that Lightning asks for."""
        return ""

    @property
    def save_dir(self) -> str:
        """The trainer's default folder: this logger must not move anybody's files."""
        return self._default_folder

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsFiles:
        """This object."""
        return self

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the config is a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append values that were logged together.

        Args:
            metrics: values by name.
            step: number of the training step, from 0.
        """
        row: dict[str, Any] = {
            "step": step,
            **{name: _number(value) for name, value in metrics.items()},
        }
        if self.stage is not None:
            row["stage"] = self.stage
        if "epoch" in row and row["epoch"] is not None:
            row["epoch"] = int(row["epoch"])
        self._guarded(row)

    def _guarded(self, row: dict[str, Any]) -> None:
        if self._broken:
            return
        try:
            self._append(row)
        except OSError as error:
            self._broken = True
            _LOG.warning("metrics are no longer written to '%s': %s", self.folder, error)

    def _append(self, row: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / JSONL_FILE).open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        if not self._has_table:
            return
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns = list(dict.fromkeys([*_FIRST, *self._columns, *new]))
            self._rewrite_table(read_metrics(self.folder))
            return
        with (self.folder / CSV_FILE).open("a", newline="") as stream:
            csv.DictWriter(stream, self._columns).writerow(_cells(row))

    def _rewrite_table(self, rows: list[dict[str, Any]]) -> None:
        if not self._has_table:
            return
        names = (name for row in rows for name in row)
        self._columns = list(dict.fromkeys([*_FIRST, *self._columns, *names]))
        final = self.folder / CSV_FILE
        with atomic_path(final) as temporary, temporary.open("w", newline="") as stream:
            table = csv.DictWriter(stream, self._columns)
            table.writeheader()
            table.writerows(_cells(row) for row in rows)

    @rank_zero_only
    def keep_before(self, step: int) -> None:
        """Forget what was logged at `step` and later, because these steps are done again."""
        try:
            rows = read_metrics(self.folder)
            kept = [row for row in rows if row["step"] is not None and row["step"] < step]
            if rows:
                with atomic_path(self.folder / JSONL_FILE) as temporary:
                    temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
                self._rewrite_table(kept)
        except OSError as error:
            _LOG.warning("'%s' keeps values of steps done again: %s", self.folder, error)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.jsonl`` in order; a last line that was cut off is left out.

    Args:
        folder: the folder of a run.
    """
    rows = []
    file = folder / JSONL_FILE
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows


def _number(value: Any) -> float | int | None:
    """Return a number that JSON has; not finite ones are none of them."""
    number = value.item() if hasattr(value, "item") else value
    if not isinstance(number, int | float):
        return None
    return number if math.isfinite(number) else None


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}
