"""The metrics of a validation or test, as a table: a row a metric, a column a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

__all__ = ["metrics_by_name", "print_metrics"]


def metrics_by_name(
    values: Sequence[Mapping[str, float]],
) -> tuple[list[str], dict[str, dict[str, float]]]:
    """Return the data sets in order, and metric name -> data set -> value.

    Args:
        values: what Lightning's ``validate`` or ``test`` returns, by ``<data set>_epoch/<metric>``.
    """
    rows: dict[str, dict[str, float]] = {}
    for logged in values:
        for name, value in logged.items():
            dataset, _, metric = name.partition("_epoch/")
            rows.setdefault(metric, {})[dataset] = float(value)
    datasets = sorted({dataset for row in rows.values() for dataset in row})
    return datasets, rows


def print_metrics(values: Sequence[Mapping[str, float]]) -> None:
    """Print the metrics to standard output, in the units of the data."""
    datasets, rows = metrics_by_name(values)
    table = Table("metric", *[f"{dataset}_epoch" for dataset in datasets])
    for metric, row in sorted(rows.items()):
        table.add_row(metric, *[f"{row[d]:.6g}" if d in row else "" for d in datasets])
    # Tables that go to a file or a pipe have the width they need.
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
