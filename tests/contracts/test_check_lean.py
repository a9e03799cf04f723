"""tools/check_lean.py fails where the full stack is installed, and where nothing can be proved."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(ROOT / "tools" / "check_lean.py"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_installed_intruders_are_reported() -> None:
    result = run_check(ROOT / "tests" / "golden")
    assert result.returncode == 1, result.stderr
    assert "nequip_train is installed" in result.stdout
    assert "e3nn is installed" in result.stdout


def test_golden_package_runs_without_importing_an_intruder() -> None:
    printed = run_check(ROOT / "tests" / "golden").stdout
    assert "model.nequip.zip: energy" in printed
    assert "was imported" not in printed


def test_folder_without_packages_fails(tmp_path: Path) -> None:
    result = run_check(tmp_path)
    assert result.returncode == 1
    assert "nothing was proved" in result.stdout
