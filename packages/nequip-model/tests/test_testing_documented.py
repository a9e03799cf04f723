"""The page for extension authors holds, and so do the documented fixtures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "model" / "testing.md"

CONFTEST = """
from pathlib import Path
from nequip_model.testing import CONFTEST_PATH
exec(compile(Path(CONFTEST_PATH).read_text(), CONFTEST_PATH, "exec"))
"""

USES_FIXTURES = """
import torch

def test_fixtures(model_dtype, default_dtype, temp_data, CH3CHO, CH3CHO_no_typemap, Cu_bulk,
                  molecules, nequip_dataset, atomic_batch, diamond_carbon):
    assert model_dtype in ("float32", "float64") and torch.get_default_dtype() == torch.float64
    assert temp_data.is_dir()
    assert CH3CHO["pos"].shape == (7, 3) and CH3CHO["atom_types"].tolist().count(0) == 4
    assert sorted(CH3CHO_no_typemap["atomic_numbers"].tolist()) == [1, 1, 1, 1, 6, 6, 8]
    assert len(Cu_bulk["pos"]) == 4 and len(diamond_carbon["pos"]) == 8
    assert len(molecules) == 2
    assert len(atomic_batch["num_atoms"]) == len(nequip_dataset) == 3
"""


def examples():
    if not PAGE.exists():
        pytest.skip("the documents are not part of the source distribution")
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def run_pytest(folder):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    return found.returncode, found.stdout + found.stderr


def test_the_class_on_the_page_passes_beside_the_documented_fixtures(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_fixtures.py").write_text(USES_FIXTURES)
    (tmp_path / "test_my_model.py").write_text(examples()[0])
    code, text = run_pytest(tmp_path)
    assert code == 0, text
    assert re.search(r"\b[3-9]\d passed", text), text


def test_the_functions_on_the_page_hold():
    exec(compile(examples()[1], str(PAGE), "exec"), {})


def test_a_class_without_its_fixtures_is_told_which(tmp_path):
    (tmp_path / "test_bare.py").write_text(
        "from nequip_model.testing.model_tests import BasicModelTestsMixin\n"
        "class TestBare(BasicModelTestsMixin):\n    pass\n"
    )
    code, text = run_pytest(tmp_path)
    assert code == 1
    assert "TestBare.config is missing" in text


def test_nothing_but_the_classes_and_fixtures_needs_pytest():
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "import importlib, pkgutil, nequip_model.testing as kit\n"
        "for found in pkgutil.iter_modules(kit.__path__):\n"
        "    if found.name not in ('model_tests', 'fixtures'):\n"
        "        importlib.import_module(f'nequip_model.testing.{found.name}')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
