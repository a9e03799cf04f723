"""Absolute paths are found in configs, and nothing else is taken for one."""

from __future__ import annotations

import pytest

from nequip_package.absolute_paths import holds_absolute_path, without_absolute_paths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/jo/alloy.xyz", "alloy.xyz"),
        ("/home/jo/my data/alloy 2.xyz", "alloy 2.xyz"),
        ("/scratch/run/", "run"),
        ("~/data/alloy.xyz", "alloy.xyz"),
        ("~jo/data/alloy.xyz", "alloy.xyz"),
        (r"C:\Users\jo\alloy.xyz", "alloy.xyz"),
        ("D:/data/alloy.xyz", "alloy.xyz"),
        (r"\\server\share\alloy.xyz", "alloy.xyz"),
        ("file:///home/jo/alloy.xyz", "alloy.xyz"),
        ("path=/home/jo/a.xyz,/home/jo/b.xyz", "path=a.xyz,b.xyz"),
        ("read '/home/jo/a.xyz' and \"/tmp/b.xyz\"", "read 'a.xyz' and \"b.xyz\""),
        ("host:/home/jo/a.xyz", "host:a.xyz"),
        ("open C:\\data\\a.xyz now", "open a.xyz now"),
        ("/", "."),
    ],
)
def test_absolute_path_is_replaced_by_its_last_component(text: str, expected: str) -> None:
    assert without_absolute_paths(text) == expected
    assert holds_absolute_path(text)


@pytest.mark.parametrize(
    "text",
    [
        "alloy.xyz",
        "data/alloy.xyz",
        "../data/alloy.xyz",
        "eV/A",
        "eV / Angstrom^3",
        "https://example.org/data/alloy.xyz",
        "nequip.model.NequIPGNNModel",
        "${training_data_stats:forces_rms}",
        "0.5/2",
        "a//b",
        "",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert without_absolute_paths(text) == text
    assert not holds_absolute_path(text)


def test_containers_are_searched_keys_included() -> None:
    config = {"/data/a.xyz": [{"file": "/data/b.xyz"}, ("/data/c.xyz", 1, None, True)], "n": 2.5}
    assert without_absolute_paths(config) == {
        "a.xyz": [{"file": "b.xyz"}, ["c.xyz", 1, None, True]],
        "n": 2.5,
    }
