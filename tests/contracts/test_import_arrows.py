"""The import contracts of pyproject.toml can fail: each forbidden arrow is drawn and reported."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
LAYERS = TOOLS["importlinter"]["root_packages"]
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """Return a folder with the layers, every module that a contract names, and the contracts."""
    named = {
        module
        for contract in TOOLS["importlinter"]["contracts"]
        for key in ("source_modules", "forbidden_modules")
        for module in contract.get(key, [])
        if module.partition(".")[0] in LAYERS
    }
    for name in {*LAYERS, *named}:
        folder = tmp_path.joinpath(*name.split("."))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
    # An import that a contract ignores has to exist.
    for contract in TOOLS["importlinter"]["contracts"]:
        for ignored in contract.get("ignore_imports", []):
            source, target = ignored.split(" -> ")
            file = tmp_path.joinpath(*source.split(".")).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"import {target}\n")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    # `-c` puts the working directory first on sys.path: these layers, not the installed ones.
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_distribution_is_under_contract() -> None:
    found = {path.parent.name for path in ROOT.glob("packages/*/src/*/_version.py")}
    assert len(found) == len(list(ROOT.glob("packages/*/pyproject.toml")))
    assert found == set(LAYERS)


def test_empty_layers_pass(layers: Path) -> None:
    result = lint_imports(layers)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("nequip_core", "nequip_model"),
        ("nequip_core", "e3nn"),
        ("nequip_core", "omegaconf"),
        ("nequip_core", "ase"),
        ("nequip_model", "nequip_train"),
        ("nequip_model", "allegro"),
        ("allegro", "nequip_train"),
        ("allegro", "lightning"),
        ("nequip", "allegro"),
        ("nequip_model", "lightning"),
        ("nequip_model/nn", "e3nn"),
        ("nequip_model/nn", "nequip_core.errors"),
        ("nequip_package", "nequip_model"),
        ("nequip_package", "nequip_compile"),
        ("nequip_compile", "nequip_model"),
        ("nequip_integrations", "nequip_package"),
        ("nequip_integrations", "e3nn"),
        ("nequip_kernels", "nequip_model"),
        ("nequip_model", "nequip_kernels"),
        ("nequip_train", "nequip_package"),
        ("nequip", "nequip_train"),
    ],
)
def test_forbidden_arrow_is_reported(layers: Path, importer: str, imported: str) -> None:
    (layers / importer / "arrow.py").write_text(f"def late():\n    import {imported}\n")
    result = lint_imports(layers)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{importer.replace('/', '.')}.arrow" in result.stdout
