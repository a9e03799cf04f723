"""What the tests of files that others wrote share."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[Path], Path]:
    """``stored(file)``: the file; of a package, which is kept compressed here, a plain copy.

    The copy is in the test's folder, as torch writes packages.
    """

    def copy_of(file: Path) -> Path:
        if file.suffix != ".zip":
            return file
        copy = tmp_path / f"stored-{file.name}"
        with zipfile.ZipFile(file) as source, zipfile.ZipFile(copy, "w") as sink:
            for entry in source.infolist():
                sink.writestr(entry.filename, source.read(entry))
        return copy

    return copy_of
