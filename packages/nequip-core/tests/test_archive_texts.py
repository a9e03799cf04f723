"""Texts that nobody vouches for are refused before they take long."""

from __future__ import annotations

import time

import pytest

from nequip_core.archive.texts import TextError, parse_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"a: 1{':59' * 200_000}", "a number of 600001 characters"),  # to the base 60
        (f"a: 1{':59' * 200_000}.5", "a number of 600003 characters"),
        (f"a: 0x1{'0' * 8000}", "a number of 8003 characters"),
        # Integers of the same hash, each of which a dictionary compares with all before it.
        (f"{{{', '.join(f'{k * (2**61 - 1):#x}: 1' for k in range(1, 16_000))}}}", "as a key"),
        (f"{{{', '.join(f'k{k}: 1' for k in range(16_000))}, k15999: 1}}", "'k15999' twice"),
    ],
    ids=["base 60", "base 60 fraction", "hexadecimal", "same hash", "key twice"],
)
def test_yaml_that_would_take_long_is_refused(text: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(TextError, match=message):
        parse_yaml(text.encode())
    assert time.process_time() - start < 2.0


def test_numbers_of_usual_length_are_read() -> None:
    text = b"{1: -1, 0x10: 1_000, a: 1:30, b: 1.5e-10, c: .inf, d: 18446744073709551615}"
    expected = {1: -1, 16: 1000, "a": 90, "b": 1.5e-10, "c": float("inf"), "d": 2**64 - 1}
    assert parse_yaml(text) == expected
