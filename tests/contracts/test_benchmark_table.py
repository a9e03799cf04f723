"""The table of a benchmark run has medians, and ratios to the reference of the same run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def table_module():
    spec = importlib.util.spec_from_file_location("table", ROOT / "tools" / "benchmark_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rows(table_module):
    return table_module.rows


def entry(group: str, median: float, **params: object) -> dict:
    return {"group": group, "name": group, "params": params, "stats": {"median": median}}


def test_ratio_is_the_reference_over_ours(rows) -> None:
    table = rows(
        {
            "benchmarks": [
                entry("prediction, Cu 24", 0.02, build="ours", system="Cu 24"),
                entry("prediction, Cu 24", 0.05, build="nequip 0.19.1", system="Cu 24"),
            ]
        }
    )
    assert table[2] == "| prediction, Cu 24 | 50 ms | 20 ms | 2.5 |"


def test_a_backend_is_compared_with_the_same_or_else_the_fastest_of_the_reference(rows) -> None:
    table = rows(
        {
            "benchmarks": [
                entry("list", 0.1, which="ours matscipy"),
                entry("list", 2.0, which="ours torch"),
                entry("list", 0.2, which="nequip 0.19.1 vesin"),
                entry("list", 0.4, which="nequip 0.19.1 matscipy"),
            ]
        }
    )
    assert table[2:] == [
        "| list, matscipy | 400 ms | 100 ms | 4 |",
        "| list, torch | 200 ms | 2000 ms | 0.1 |",
    ]


def test_parameters_that_the_group_does_not_name_are_in_the_label(rows) -> None:
    table = rows({"benchmarks": [entry("step, 1k", 0.001, size="1k", skin=0.5)]})
    assert table[2] == "| step, 1k, skin 0.5 |  | 1 ms |  |"


def test_a_group_without_reference_has_no_ratio(rows) -> None:
    table = rows({"benchmarks": [entry("training", 0.001, build="ours")]})
    assert table[2] == "| training |  | 1 ms |  |"


@pytest.mark.parametrize(
    ("key", "ours", "theirs", "line"),
    [
        ("bytes", 200_000, 300_000, "| build | 300 kB | 200 kB | 1.5 |"),
        ("peak", 5e8, 2e9, "| build | 2000 MB | 500 MB | 4 |"),
        ("loading", 0.5, 0.25, "| build | 250 ms | 500 ms | 0.5 |"),
    ],
)
def test_what_benchmarks_note_besides_times_has_tables(
    table_module, key, ours, theirs, line
) -> None:
    first, second = entry("build", 1.0, who="ours"), entry("build", 3.0, who="nequip 0.19.1")
    first["extra_info"], second["extra_info"] = {key: ours}, {key: theirs}
    content = {"benchmarks": [first, second, entry("load", 1.0, who="ours")]}
    assert table_module.extra_rows(content, key)[-1] == line
    alone = {"benchmarks": [entry("load", 1.0, who="ours")]}
    assert table_module.extra_rows(alone, key) == []
