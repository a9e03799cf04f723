"""The table of a benchmark run has medians, and ratios to the reference of the same run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rows():
    spec = importlib.util.spec_from_file_location("table", ROOT / "tools" / "benchmark_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.rows


def entry(group: str, median: float, **params: object) -> dict:
    return {"group": group, "name": group, "params": params, "stats": {"median": median}}


def test_ratio_is_the_reference_over_ours(rows) -> None:
    table = rows(
        {
            "benchmarks": [
                entry("prediction", 0.02, build="ours", system="Cu 24"),
                entry("prediction", 0.05, build="nequip 0.19.1", system="Cu 24"),
            ]
        }
    )
    assert table[2] == "| prediction | 50 ms | 20 ms | 2.5 |"


def test_several_of_ours_are_compared_with_the_fastest_reference(rows) -> None:
    table = rows(
        {
            "benchmarks": [
                entry("list", 0.1, backend="vesin"),
                entry("list", 2.0, backend="torch"),
                entry("list", 0.2, backend="nequip 0.19.1 vesin"),
                entry("list", 0.4, backend="nequip 0.19.1 matscipy"),
            ]
        }
    )
    assert table[2:] == [
        "| list, vesin | 200 ms | 100 ms | 2 |",
        "| list, torch | 200 ms | 2000 ms | 0.1 |",
    ]


def test_a_group_without_reference_has_no_ratio(rows) -> None:
    table = rows({"benchmarks": [entry("training", 0.001, build="ours")]})
    assert table[2] == "| training |  | 1 ms |  |"
