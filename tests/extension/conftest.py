"""The template extension and its library are built and installed in folders of their own.

So their entry points are found as those of any installed distribution, and a test can leave either
out.
"""

from __future__ import annotations

import atexit
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDER = tempfile.TemporaryDirectory(prefix="nequip-template-")
atexit.register(FOLDER.cleanup)


def install(project: str) -> Path:
    """Build the wheel of a project beside this file and return the folder it is installed in."""
    site = Path(FOLDER.name) / project
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", "-q", *options, "-t", str(site)]
    result = subprocess.run(
        [*command, str(HERE / project)], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise pytest.UsageError(f"{project} cannot be built and installed:\n{result.stderr}")
    sys.path.insert(0, str(site))
    return site


LIBRARY = install("library")
TEMPLATE = install("template")


@pytest.fixture(scope="session")
def sites() -> dict[str, Path]:
    """Where the template (``template``) and its library (``library``) are installed."""
    return {"library": LIBRARY, "template": TEMPLATE}


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the user's list of packages built here; return it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"
