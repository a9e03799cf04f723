"""Each rule of tools/check_dependencies.py holds here, and can fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "tools" / "check_dependencies.py"


def run_check(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECK), str(root)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., Path]:
    """Return a writer of a repository with one distribution."""

    def write(name: str, source: str, dependencies: list[str], extras: str = "") -> Path:
        folder = tmp_path / "packages" / name
        module = folder / "src" / name.replace("-", "_")
        module.mkdir(parents=True)
        (module / "__init__.py").write_text(source)
        (folder / "pyproject.toml").write_text(
            f"[project]\nname = '{name}'\ndependencies = {dependencies}\n{extras}"
        )
        return tmp_path

    return write


def test_this_repository_passes() -> None:
    result = run_check(ROOT)
    assert result.returncode == 0, result.stdout


def test_declared_imports_pass(repository: Callable[..., Path]) -> None:
    source = "import os\nimport yaml\nfrom nequip_core.fields import A\n"
    assert run_check(
        repository("nequip-package", source, ["pyyaml", "nequip-core>=0.1,<0.2"])
    ).stdout.startswith("dependencies: every import is declared")


@pytest.mark.parametrize(
    ("source", "dependencies", "message"),
    [
        ("import numpy\n", [], "imports 'numpy', which nequip-core does not declare"),
        ("def f():\n    from h5py import File\n", [], "imports 'h5py'"),
        ("import importlib\nimportlib.import_module('ase.io')\n", [], "imports 'ase'"),
        ("import nequip_model.gnn\n", ["nequip-model<1"], "against the arrows"),
        ("", ["numpy"], "declares 'numpy' but nothing in src imports it"),
        ("", ["nequip-train>=0.1,<0.2"], "requires nequip-train, against the arrows"),
    ],
    ids=["undeclared", "lazy", "by name", "upward", "unused", "upward requirement"],
)
def test_problem_is_reported(
    repository: Callable[..., Path], source: str, dependencies: list[str], message: str
) -> None:
    result = run_check(repository("nequip-core", source, dependencies))
    assert result.returncode == 1
    assert message in result.stdout


def test_layer_without_upper_bound_is_reported(repository: Callable[..., Path]) -> None:
    result = run_check(repository("nequip-model", "import nequip_core\n", ["nequip-core>=0.1"]))
    assert result.returncode == 1
    assert "has no upper bound" in result.stdout


def test_unknown_distribution_is_reported(repository: Callable[..., Path]) -> None:
    result = run_check(repository("nequip-novel", "", []))
    assert result.returncode == 1
    assert "a distribution without arrows" in result.stdout


def test_empty_folder_is_reported(tmp_path: Path) -> None:
    result = run_check(tmp_path)
    assert result.returncode == 1
    assert "no distribution found" in result.stdout
