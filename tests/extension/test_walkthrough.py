"""The page that walks through an extension package is executed: its files, commands and tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extensions" / "README.md"
FILE = re.compile(r"^`([\w./-]+)`:\n\n```(?:toml|python)\n(.*?)```", re.DOTALL | re.MULTILINE)
# Predicts where the extension and the code of models cannot be imported.
ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("embedded_atoms", "nequip", "nequip_model", "e3nn"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocked())
from nequip_core.archive.loading import load_package
from nequip_core.synthetic import synthetic_frame

model = load_package("embedded.nequip.zip", load="snapshot", trust_code=True).models["sole_model"]
print(float(model(synthetic_frame(["H", "O"], 4.0))["forces"].abs().max()))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page with its files, installed into its subfolder ``site``."""
    folder = tmp_path_factory.mktemp("embedded-atoms")
    for name, text in FILE.findall(PAGE.read_text()):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (command,) = re.findall(r"^pip (install [^\n]*) \.$", PAGE.read_text(), re.MULTILINE)
    options = [*command.split(), "-q", "--no-index", "--disable-pip-version-check"]
    run(folder, "-m", "pip", *options, "-t", str(folder / "site"), str(folder))
    return folder


def run(folder: Path, *arguments: str) -> str:
    """Run Python where the package is installed; return what it prints."""
    path = os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "XDG_DATA_HOME": str(folder / "nobody")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_page_names_every_file_that_it_shows() -> None:
    text = PAGE.read_text()
    tree = re.search(r"```\nembedded-atoms/\n(.*?)```", text, re.DOTALL)
    assert tree is not None
    listed = {line.split()[0] for line in tree.group(1).splitlines()}
    assert listed == {name for name, _ in FILE.findall(text)}
    assert len(listed) == 6


def test_tests_of_the_page_pass(project: Path) -> None:
    printed = run(project, "-m", "pytest", "-p", "no:cacheprovider", "-q", "tests")
    assert "passed" in printed
    assert "failed" not in printed


def test_package_of_the_page_runs_without_the_extension(project: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    shown = {text for _, text in FILE.findall(PAGE.read_text())}
    (example,) = [block for block in blocks if block not in shown]
    assert "assert " in example
    run(project, "-c", example)
    assert float(run(project, "-c", ALONE)) > 0.0
