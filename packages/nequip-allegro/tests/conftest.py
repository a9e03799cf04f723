"""Models and numbers that the tests of this distribution share."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[3] / "tests" / "golden" / "extension"
CASES = json.loads((GOLDEN / "cases.json").read_text())


@pytest.fixture(scope="session")
def golden():
    """``golden(prefix)``: tensors of the published nequip-allegro 0.8.3, by their further name."""
    with np.load(GOLDEN / "allegro.npz") as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files}

    def part(prefix):
        start = f"{prefix}/"
        found = {key.removeprefix(start): v for key, v in tensors.items() if key.startswith(start)}
        assert found, prefix
        return found

    return part


@pytest.fixture(scope="session")
def build():
    """``build(case, **changes)``: the model of a golden case, in eval mode."""
    from allegro.model import AllegroModel

    def make(case="bessel", **changes):
        arguments = {**CASES["shared"], **CASES["cases"][case], **changes}
        return AllegroModel(**arguments).eval()

    return make


@pytest.fixture(autouse=True)
def data_home(tmp_path, monkeypatch):
    """An empty folder in place of the user's list of packages built here."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
