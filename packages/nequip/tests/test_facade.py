"""The facade holds names only, and each is the very object of the layer that owns it."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nequip
from nequip_core.documented_names import DOCUMENTED_NAMES, canonical_name

FOLDER = Path(nequip.__file__).parent
MODULES = sorted(
    ".".join(("nequip", *file.relative_to(FOLDER).with_suffix("").parts)).removesuffix(".__init__")
    for file in FOLDER.rglob("*.py")
    if file.parent != FOLDER or file.name not in {"__init__.py", "_version.py"}
)


def resolve(path: str) -> object:
    """Return the object at a dotted path: an attribute of a module, or a module."""
    owner, _, name = path.rpartition(".")
    module = importlib.import_module(owner)
    return getattr(module, name) if hasattr(module, name) else importlib.import_module(path)


def test_table_and_facade_are_not_empty() -> None:
    assert len(DOCUMENTED_NAMES) > 30
    assert len(MODULES) > 8


@pytest.mark.parametrize("name", sorted(DOCUMENTED_NAMES))
def test_documented_name_is_the_object_of_its_layer(name: str) -> None:
    assert resolve(name) is resolve(canonical_name(name))


def test_every_parent_of_a_documented_name_has_a_module() -> None:
    assert {name.rpartition(".")[0] for name in DOCUMENTED_NAMES} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_facade_module_has_no_logic(name: str) -> None:
    file = FOLDER.joinpath(*name.split(".")[1:])
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    docstring, imported, assigned = ast.parse(file.read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert ast.unparse(imported) == "from nequip_core.documented_names import facade_module"
    assert isinstance(assigned, ast.Assign)
    assert ast.unparse(assigned.value) == "facade_module(__name__)"


@pytest.mark.parametrize("name", MODULES)
def test_facade_module_lists_its_names(name: str) -> None:
    module = importlib.import_module(name)
    wanted = sorted(
        path.rpartition(".")[2] for path in DOCUMENTED_NAMES if path.rpartition(".")[0] == name
    )
    assert sorted(module.__all__) == dir(module) == wanted


def test_unknown_name_is_an_attribute_error_that_names_both() -> None:
    with pytest.raises(AttributeError, match=r"nequip\.model.*NoSuchModel"):
        importlib.import_module("nequip.model").NoSuchModel  # noqa: B018


def test_facade_imports_without_torch() -> None:
    code = "\n".join(f"import {name}" for name in ("nequip", *MODULES))
    code += "\nimport sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def extension(folder: Path, source: str) -> None:
    """Lay out an installed extension package ``my_extension`` of version 1.2."""
    (folder / "my_extension.py").write_text(source)
    info = folder / "my_extension-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-extension\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[nequip.extension]\ninit_always = my_extension\n")


def run_beside(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("first", ["nequip", "my_extension"])
def test_extension_is_imported_once_whoever_is_imported_first(tmp_path: Path, first: str) -> None:
    extension(tmp_path, "import nequip.data\nprint('registering')\n")
    code = f"import {first}, nequip, importlib; importlib.reload(nequip)\n"
    # Others may be installed.
    code += "found = [e.value for e in nequip._DISCOVERED_NEQUIP_EXTENSION]\n"
    code += "print(found.count('my_extension'))"
    result = run_beside(tmp_path, code)
    assert result.stdout.splitlines() == ["registering", "1"], result.stderr


def test_failing_extension_is_a_warning_that_names_it(tmp_path: Path) -> None:
    extension(tmp_path, "import no_such_library\n")
    result = run_beside(tmp_path, "import nequip; print(nequip.__version__)")
    assert result.returncode == 0
    assert "'my_extension' from my-extension==1.2 does not import" in result.stderr
    assert "no_such_library" in result.stderr
