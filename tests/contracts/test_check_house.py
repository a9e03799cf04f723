"""Each rule of tools/check_house.py holds here, and can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "tools" / "check_house.py"
MODULE = "packages/nequip-core/src/nequip_core"
LONG_FUNCTION = "def f():\n    '''Say.'''\n" + "    x = 1\n" * 90


def run_check(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECK), str(root)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Return a repository that keeps every rule."""
    files = {
        "LICENSE": "MIT\n",
        "packages/nequip-core/LICENSE": "MIT\n",
        "packages/nequip-core/README.md": "",
        "packages/nequip-core/CHANGELOG.md": "",
        "packages/nequip-core/pyproject.toml": "",
        "packages/nequip-core/tests/test_a.py": "def test_a():\n    assert True\n",
        f"{MODULE}/__init__.py": "",
        f"{MODULE}/_version.py": "",
        f"{MODULE}/py.typed": "",
        f"{MODULE}/reader.py": "__all__ = ['f']\n\n\ndef f():\n    return 1\n",
    }
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_this_repository_passes() -> None:
    result = run_check(ROOT)
    assert result.returncode == 0, result.stdout


def test_house_in_order_passes(house: Path) -> None:
    assert run_check(house).stdout == "house: in order\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (f"{MODULE}/long.py", "#\n" * 601, "601 lines, at most 600"),
        ("noxfile.py", "#\n" * 351, "351 lines, at most 350"),
        (f"{MODULE}/_long.py", LONG_FUNCTION, "function f has 90 lines, at most 80"),
        (f"{MODULE}/_check.py", "assert 1\n", "assert in library code"),
        (f"{MODULE}/_stub.py", "raise NotImplementedError\n", "use abc.abstractmethod"),
        (f"{MODULE}/_note.py", f"# {'TO'}DO later\n", "finish it"),
        (f"{MODULE}/utils.py", "__all__ = []\n", "the name says nothing"),
        (f"{MODULE}/open.py", "def f():\n    return 1\n", "no __all__"),
        ("packages/nequip-core/tests/__init__.py", "", "test folders are not packages"),
        ("packages/nequip-core/LICENSE", "other\n", "differs from the one at the root"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else "",
)
def test_problem_is_reported(house: Path, name: str, text: str, message: str) -> None:
    (house / name).write_text(text)
    result = run_check(house)
    assert result.returncode == 1
    assert name in result.stdout
    assert message in result.stdout


@pytest.mark.parametrize(
    "name",
    ["README.md", "CHANGELOG.md", "LICENSE", "tests/test_a.py"]
    + [f"src/nequip_core/{name}" for name in ("__init__.py", "_version.py", "py.typed")],
)
def test_missing_file_of_a_distribution_is_reported(house: Path, name: str) -> None:
    (house / "packages" / "nequip-core" / name).unlink()
    result = run_check(house)
    assert result.returncode == 1
    assert f"no {Path(name).name}" in result.stdout.replace("test_*.py", "test_a.py")


def test_empty_folder_is_reported(tmp_path: Path) -> None:
    result = run_check(tmp_path)
    assert result.returncode == 1
    assert "no distribution found" in result.stdout
