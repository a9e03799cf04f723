"""No distribution and no folder of tests is forgotten by the sessions, or by `.ci/run`."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOXFILE = (ROOT / "noxfile.py").read_text()
TREE = ast.parse(NOXFILE)
CI = (ROOT / ".ci" / "run").read_text()
DISTRIBUTIONS = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")}


def constant(name: str) -> Any:
    """Return the value of a literal at the top of the noxfile."""
    for node in TREE.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise KeyError(name)


def sessions() -> set[str]:
    """Return the names of the sessions."""
    return {
        node.name
        for node in TREE.body
        if isinstance(node, ast.FunctionDef)
        and any("nox.session" in ast.unparse(item) for item in node.decorator_list)
    }


def test_every_distribution_is_in_the_noxfile() -> None:
    assert DISTRIBUTIONS
    assert set(constant("DISTRIBUTIONS")) == DISTRIBUTIONS


def test_every_folder_of_tests_is_run() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(folders) >= 4
    for folder in folders:
        assert f'"{folder.relative_to(ROOT)}"' in NOXFILE, folder


def test_every_file_of_tests_is_in_a_folder_that_is_run() -> None:
    files = list(ROOT.glob("packages/*/**/test_*.py"))
    assert files
    for file in files:
        assert file.relative_to(ROOT).parts[2] == "tests", file


def test_ci_runs_sessions_that_exist() -> None:
    found = re.findall(r'^(?:first|lane|other_lane)="([a-z ]+)"', CI, re.MULTILINE)
    names = " ".join(found).split()
    assert len(found) == 3
    separate = ["archives", "engines", "extension", "imports", "lean", "lint", "parity"]
    assert sorted(names) == [*separate, "tests"]
    assert set(names) <= sessions()


@pytest.mark.parametrize("name", ["demo", "tests"])
def test_readme_shows_commands_that_exist(name: str) -> None:
    assert f"pip install nox && nox -s {name}" in (ROOT / "README.md").read_text()
    assert name in sessions()
