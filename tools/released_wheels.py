"""Wheels of released versions, built from their recorded commits into a cache.

Usage: python tools/released_wheels.py CACHE REQUIREMENT...   e.g. nequip-core==0.1.0

Prints the path of each wheel. Needs git, and pip with hatchling in the running environment.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import tomllib
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tools" / "releases.toml"


def releases() -> dict[tuple[str, str], str]:
    """Return the commit of every release by distribution and version, oldest first.

    Raises:
        SystemExit: a release is recorded twice.
    """
    found: dict[tuple[str, str], str] = {}
    for entry in tomllib.loads(RECORD.read_text())["release"]:
        key = (entry["distribution"], entry["version"])
        if key in found:
            raise SystemExit(f"{RECORD.name}: {key[0]} {key[1]} is recorded twice")
        found[key] = entry["commit"]
    return found


def released_versions(distribution: str) -> list[str]:
    """Return the released versions of a distribution, oldest first."""
    return [version for name, version in releases() if name == distribution]


def sources(distribution: str, commit: str, folder: Path) -> Path:
    """Return the folder with the sources of a distribution at a commit, written below `folder`.

    Raises:
        SystemExit: the commit is not in this clone.
    """
    done = subprocess.run(
        ["git", "archive", commit, f"packages/{distribution}"], cwd=ROOT, capture_output=True
    )
    if done.returncode:
        reason = done.stderr.decode().strip()
        raise SystemExit(f"{distribution} at {commit}: {reason}; a shallow clone lacks it")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "packages" / distribution


def released_wheel(distribution: str, version: str, cache: Path) -> Path:
    """Return the wheel of a release, from the cache or built now.

    Raises:
        SystemExit: there is no such release, or its wheel does not build.
    """
    commit = releases().get((distribution, version))
    if commit is None:
        known = ", ".join(released_versions(distribution)) or "none"
        raise SystemExit(f"{distribution} {version} is not in {RECORD.name}; released: {known}")
    folder = cache / commit
    pattern = f"{distribution.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source = sources(distribution, commit, Path(scratch))
            command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]
            options = ["--no-build-isolation", "-w", scratch, str(source)]
            subprocess.run([*command, *options], check=True, stdout=sys.stderr)
            built = list(Path(scratch).glob(pattern))
            if not built:
                raise SystemExit(f"{distribution} at {commit} does not build version {version}")
            built[0].replace(folder / built[0].name)
    (wheel,) = folder.glob(pattern)
    return wheel


def main() -> int:
    """Print the path of each wheel asked for."""
    cache = Path(sys.argv[1]).resolve()
    if len(sys.argv) < 3:
        raise SystemExit("no requirements given: DISTRIBUTION==VERSION ...")
    for requirement in sys.argv[2:]:
        distribution, _, version = requirement.partition("==")
        print(released_wheel(distribution, version, cache))
    return 0


if __name__ == "__main__":
    sys.exit(main())
