"""Which entries go from a cache."""

from __future__ import annotations

import argparse

import pytest

from nequip_core.cache_pruning import add_pruning_options, superfluous

DAY = 86_400.0
# name, last use in days before now, bytes; in no order.
ENTRIES = [("b", 2.0, 30), ("d", 9.0, 10), ("a", 1.0, 20), ("c", 3.0, 40)]


def gone(**limits):
    now = 1e9
    sized = [(name, now - days * DAY, size) for name, days, size in ENTRIES]
    return superfluous(sized, now, **limits)


def test_what_was_not_used_for_longest_goes() -> None:
    assert gone() == []
    assert gone(unused_days=2.5) == ["c", "d"]
    assert gone(unused_days=0.0) == ["a", "b", "c", "d"]
    # "d" still fits where "c" does not.
    assert gone(largest_total=60) == ["c"]
    assert gone(largest_total=50) == ["c", "d"]
    assert gone(largest_total=0) == ["a", "b", "c", "d"]
    assert gone(unused_days=8.0, largest_total=60) == ["c", "d"]


def test_options_are_days_and_bytes(capsys) -> None:
    parser = argparse.ArgumentParser()
    add_pruning_options(parser, "set")
    found = parser.parse_args(["--older-than", "7", "--larger-than", "1.5 GB"])
    assert (found.older_than, found.larger_than, found.all) == (7.0, 1.5e9, False)
    assert parser.parse_args(["--larger-than", "20k"]).larger_than == 20e3
    for words in (["--older-than", "-1"], ["--older-than", "inf"], ["--larger-than", "big"]):
        with pytest.raises(SystemExit):
            parser.parse_args(words)
        assert "invalid" in capsys.readouterr().err
