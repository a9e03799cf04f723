"""What a description asks for is bounded by the weights beside it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from nequip_core.archive.build_limits import BuildLimits
from nequip_core.archive.permitted import check_description
from nequip_core.errors import FileFormatError


def test_sizes_are_refused_before_they_are_filled() -> None:
    with (
        pytest.raises(FileFormatError, match="'model' asks for a far larger model"),
        BuildLimits("'model'", {}),
    ):
        torch.randn(10**7, 10**7)


def test_many_tensors_and_many_operations_are_refused() -> None:
    with pytest.raises(FileFormatError, match="far larger"), BuildLimits("'model'", {}):
        for _ in range(200):
            torch.empty(2**20, dtype=torch.float64)
    with pytest.raises(FileFormatError, match="far larger"), BuildLimits("'model'", {}):
        value = torch.zeros(())
        while True:
            value += 1.0


def test_a_model_with_weights_as_large_as_those_of_the_file_may_be_built() -> None:
    weights = {"weight": torch.empty(2**28)}
    with BuildLimits("'model'", weights):
        linear = torch.nn.Linear(2**14, 2**14, bias=False)
    assert linear.weight.nbytes == weights["weight"].nbytes


def test_integers_that_are_no_sizes_are_refused() -> None:
    description = {"architecture": "none", "version": 1, "modifiers": []}
    for arguments in ({"num_layers": 10**9}, {"widths": [10**9]}, {"a": {"depth": 10**9}}):
        with pytest.raises(FileFormatError, match="no size of a model"):
            check_description({**description, "arguments": arguments}, "'model'")
    with pytest.raises(FileFormatError, match="'none' is not installed"):
        check_description({**description, "arguments": {"seed": 10**9}}, "'model'")


def test_watching_imports_no_compiler() -> None:
    script = (
        "import sys, torch\nfrom nequip_core.archive.build_limits import BuildLimits\n"
        "with BuildLimits('model', {}):\n    torch.zeros(3)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("False\n", "")
