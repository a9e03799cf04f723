"""The test classes of an extension package run under their documented names."""

from __future__ import annotations

import re
import subprocess
import sys

CONFTEST = """
from nequip.utils.unittests import CONFTEST_PATH

with open(CONFTEST_PATH) as file:
    exec(file.read())
"""

# As extension packages write it: plain methods as fixtures, documented ones overridden.
EXTENSION = """
import pytest
from nequip.utils.test import assert_AtomicData_equivariant
from nequip.utils.unittests.device import get_test_devices
from nequip.utils.unittests.model_tests import BaseEnergyModelTests


class TestExtension(BaseEnergyModelTests):
    @pytest.fixture(scope="class", params=[["H", "C", "O"]])
    def config(self, request):
        return {
            "_target_": "nequip.model.ZBLPairPotential",
            "seed": 1,
            "type_names": request.param,
            "r_max": 4.0,
            "chemical_species": request.param,
            "units": "metal",
        }

    @pytest.fixture(scope="class")
    def strict_locality(self):
        return True

    @pytest.fixture(scope="class")
    def equivariance_tol(self, model_dtype):
        return {"float32": 1e-4, "float64": 1e-9}[model_dtype]

    @pytest.fixture(scope="class", params=get_test_devices())
    def device(self, request):
        return request.param

    @pytest.fixture(scope="class")
    def irrep_format(self):
        return "ir_mul"

    @pytest.fixture(scope="class")
    def ase_integration_tol(self, model_dtype):
        return {"float32": 5e-5, "float64": 1e-10}[model_dtype]

    def test_own(self, model, CH3CHO):
        instance, config, device = model
        assert config["model_dtype"] == instance.model_dtype
        if config["model_dtype"] == "float64":
            assert "forces" in assert_AtomicData_equivariant(instance, CH3CHO)
"""


def test_an_extension_inherits_the_documented_class(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_extension.py").write_text(EXTENSION)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search(r"\b[3-9]\d passed", found.stdout), found.stdout
