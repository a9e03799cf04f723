"""tools/check_archives.py passes complete archives and names what is missing."""

from __future__ import annotations

import importlib.util
import io
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
METADATA = "License-Expression: MIT\nDescription-Content-Type: text/markdown\n\n# nequip-core\n"
WHEEL = {
    "nequip_core/__init__.py": "",
    "nequip_core/_version.py": "",
    "nequip_core/py.typed": "",
    "nequip_core-0.1.0.dist-info/METADATA": METADATA,
    "nequip_core-0.1.0.dist-info/licenses/LICENSE": "MIT",
}
SDIST = (
    *("LICENSE", "README.md", "CHANGELOG.md", "PKG-INFO", "pyproject.toml", "tests/test_a.py"),
    *(f"src/nequip_core/{name}" for name in ("__init__.py", "_version.py", "py.typed")),
)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """Return the tool as a module."""
    spec = importlib.util.spec_from_file_location(
        "check_archives", ROOT / "tools/check_archives.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))  # where its neighbours are
        spec.loader.exec_module(module)
    return module


def write_wheel(folder: Path, members: dict[str, str]) -> Path:
    file = folder / "nequip_core-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return file


def write_sdist(folder: Path, members: list[str]) -> Path:
    file = folder / "nequip_core-0.1.0.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name in members:
            archive.addfile(tarfile.TarInfo(f"nequip_core-0.1.0/{name}"), io.BytesIO())
    return file


def test_complete_archives_pass(tool: ModuleType, tmp_path: Path) -> None:
    assert list(tool.check_wheel(write_wheel(tmp_path, WHEEL), "nequip_core")) == []
    assert list(tool.check_sdist(write_sdist(tmp_path, list(SDIST)), "nequip_core")) == []


@pytest.mark.parametrize("name", [name for name in WHEEL if not name.endswith("METADATA")])
def test_missing_member_of_a_wheel_is_reported(tool: ModuleType, tmp_path: Path, name: str) -> None:
    members = {key: text for key, text in WHEEL.items() if key != name}
    (problem,) = tool.check_wheel(write_wheel(tmp_path, members), "nequip_core")
    assert f"no member {name}" in problem


def test_stray_member_of_a_wheel_is_reported(tool: ModuleType, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {**WHEEL, "tests/test_a.py": ""})
    (problem,) = tool.check_wheel(wheel, "nequip_core")
    assert "tests/test_a.py is outside nequip_core/" in problem


@pytest.mark.parametrize("name", SDIST)
def test_missing_member_of_an_sdist_is_reported(
    tool: ModuleType, tmp_path: Path, name: str
) -> None:
    sdist = write_sdist(tmp_path, [item for item in SDIST if item != name])
    (problem,) = tool.check_sdist(sdist, "nequip_core")
    assert name in problem or "no tests" in problem


def test_missing_archives_are_reported(tool: ModuleType, tmp_path: Path) -> None:
    problems = tool.find_problems(tmp_path)
    assert len(problems) == len(list(ROOT.glob("packages/*/pyproject.toml")))


def test_only_the_distributions_that_are_named_must_be_there(
    tool: ModuleType, tmp_path: Path
) -> None:
    write_wheel(tmp_path, WHEEL)
    write_sdist(tmp_path, list(SDIST))
    assert tool.find_problems(tmp_path, ["nequip-core"]) == []
    assert any(
        "0 wheels and 0 sdists of nequip_model" in line for line in tool.find_problems(tmp_path)
    )
