"""What each distribution promises by name is what its modules list."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests" / "contracts" / "public_names").glob("*.txt"))


def test_every_distribution_has_a_list() -> None:
    names = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")}
    assert {file.stem for file in FILES} == names


def test_lists_are_current() -> None:
    result = subprocess.run(
        [sys.executable, "tools/public_names.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_promised_name_exists(file: Path) -> None:
    names = file.read_text().splitlines()
    assert names
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_lost_name_is_reported(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; sys.path.insert(0, 'tools'); import public_names as tool\n"
        f"tool.FOLDER = pathlib.Path({str(tmp_path)!r})\n"
        "(tool.FOLDER / 'nequip-core.txt').write_text('nequip_core.lost\\n')\n"
        "sys.exit(tool.main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "nequip-core: gone: nequip_core.lost" in result.stdout
