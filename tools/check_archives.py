"""Check what is inside the built wheels and sdists.

A wheel carries exactly its own top-level module, with ``py.typed`` and ``_version.py``, its licence
and its README as description; an sdist carries in addition the tests and the changelog. Prints one
line per problem and exits with 1 if there are any.

Usage: python tools/check_archives.py DIST_FOLDER [DISTRIBUTION ...]

Without names, every distribution of the tree must be there.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from import_names import import_name

ROOT = Path(__file__).parents[1]
SDIST_FILES = ("LICENSE", "README.md", "CHANGELOG.md", "PKG-INFO", "pyproject.toml")


def check_wheel(wheel: Path, module: str) -> Iterator[str]:
    """Yield a problem for each member that `wheel` lacks or should not have."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        folder = metadata.rpartition("/")[0]
        headers, _, description = archive.read(metadata).decode().partition("\n\n")
    wanted = {f"{module}/{name}" for name in ("__init__.py", "_version.py", "py.typed")}
    for name in sorted((wanted | {f"{folder}/licenses/LICENSE"}) - names):
        yield f"{wheel.name}: no member {name}"
    for name in sorted(names):
        if name.partition("/")[0] not in {module, folder}:
            yield f"{wheel.name}: member {name} is outside {module}/"
    if not description.strip() or "Description-Content-Type: text/markdown" not in headers:
        yield f"{wheel.name}: no README in the metadata"
    if "License-Expression: MIT" not in headers:
        yield f"{wheel.name}: no licence in the metadata"


def check_sdist(sdist: Path, module: str) -> Iterator[str]:
    """Yield a problem for each member that `sdist` lacks."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {f"src/{module}/{name}" for name in ("__init__.py", "_version.py", "py.typed")}
    for name in sorted({*SDIST_FILES, *sources} - names):
        yield f"{sdist.name}: no member {name}"
    if not any(name.startswith("tests/test_") for name in names):
        yield f"{sdist.name}: no tests"


def find_problems(folder: Path, distributions: Sequence[str] = ()) -> list[str]:
    """Return every problem of the archives in `folder`, a line each.

    Args:
        folder: holds one wheel and one sdist of each distribution.
        distributions: names; default all of the tree.
    """
    every = sorted(file.parent.name for file in (ROOT / "packages").glob("*/pyproject.toml"))
    problems: list[str] = []
    for distribution in distributions or every:
        stem, module = distribution.replace("-", "_"), import_name(distribution)
        wheels = list(folder.glob(f"{stem}-[0-9]*.whl"))
        sdists = list(folder.glob(f"{stem}-[0-9]*.tar.gz"))
        if len(wheels) != 1 or len(sdists) != 1:
            problems.append(f"{folder}: {len(wheels)} wheels and {len(sdists)} sdists of {stem}")
            continue
        problems += check_wheel(wheels[0], module)
        problems += check_sdist(sdists[0], module)
    return problems


def main() -> int:
    """Print the problems and return the exit code."""
    problems = find_problems(Path(sys.argv[1]), sys.argv[2:])
    print("\n".join(problems) if problems else "archives: complete")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
