"""Release one distribution: check, build, install, import, record; or change nothing.

Usage: python tools/release.py DISTRIBUTION [--next VERSION] [--check]

The version released is the one in the tree, ``_version.py``. The work is done in a worktree of its
own; only when everything has passed does the branch move on, by two commits: the date in the
changelog, which is the released commit; then its record in ``tools/releases.toml`` with the version
that is developed next (``--next``; default the next patch). ``--check`` builds nothing.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from import_names import import_name
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version
from released_wheels import RECORD, ROOT, released_versions, releases

CONSTRAINTS = ROOT / "tools" / "constraints" / "torch-2.13.0.txt"
# Extras without which some module does not import.
EXTRAS = {"nequip-model": "[testing]", "nequip-integrations": "[ase]"}
UNRELEASED = re.compile(r"^## (\S+) \(unreleased\)$", re.MULTILINE)
IMPORT_ALL = """
import importlib, pkgutil, {module}
assert {module}.__version__ == "{version}", {module}.__version__
for found in pkgutil.walk_packages({module}.__path__, "{module}."):
    importlib.import_module(found.name)
"""


def run(*command: str, cwd: Path = ROOT) -> str:
    """Return what a command prints; if it fails, end with what it said."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def version_file(root: Path, distribution: str) -> Path:
    """Return the file that holds the one literal of the version."""
    module = import_name(distribution)
    return root / "packages" / distribution / "src" / module / "_version.py"


def tree_version(root: Path, distribution: str) -> str:
    """Return the version of a distribution in a tree."""
    return re.findall(r'"([^"]+)"', version_file(root, distribution).read_text())[0]


def unreleased_section(root: Path, distribution: str) -> tuple[str, str]:
    """Return version and text of the changelog's unreleased section, empty where there is none."""
    text = (root / "packages" / distribution / "CHANGELOG.md").read_text()
    found = UNRELEASED.search(text)
    if found is None:
        return "", ""
    return found.group(1), text[found.end() :].partition("\n## ")[0].strip()


def public_names(distribution: str, commit: str | None = None) -> set[str]:
    """Return the recorded public names, of the tree or of a commit that has a record."""
    member = f"tests/contracts/public_names/{distribution}.txt"
    if commit is None:
        return set((ROOT / member).read_text().split())
    done = subprocess.run(
        ["git", "show", f"{commit}:{member}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return set(done.stdout.split())


def problems(distribution: str) -> Iterator[str]:
    """Yield what stands against releasing a distribution as it is in the tree."""
    if run("git", "status", "--porcelain"):
        yield "the working tree has uncommitted changes"
    version = tree_version(ROOT, distribution)
    before = released_versions(distribution)
    if before and Version(version) <= Version(before[-1]):
        yield f"version {version} is not above the last release, {before[-1]}"
    section, text = unreleased_section(ROOT, distribution)
    if section != version or not re.search(r"^- \S", text, re.MULTILINE):
        yield f"CHANGELOG.md has no section '## {version} (unreleased)' with an entry"
    if before:
        lost = public_names(distribution, releases()[distribution, before[-1]])
        for name in sorted(lost - public_names(distribution)):
            if name.rpartition(".")[2] not in text:
                yield f"public name {name} is gone since {before[-1]}, and CHANGELOG.md is silent"
    yield from pin_problems()
    done = subprocess.run(
        [sys.executable, "tools/public_names.py"], cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode:
        yield "the recorded public names are not those of the code: tools/public_names.py --write"


def pin_problems() -> Iterator[str]:
    """Yield every pin between layers of the tree that the tree's own versions do not satisfy."""
    for file in sorted((ROOT / "packages").glob("*/pyproject.toml")):
        project = tomllib.loads(file.read_text())["project"]
        extras = project.get("optional-dependencies", {}).values()
        for line in [*project["dependencies"], *(line for extra in extras for line in extra)]:
            pin = Requirement(line)
            if (ROOT / "packages" / pin.name).is_dir():
                version = tree_version(ROOT, pin.name)
                if version not in pin.specifier:
                    yield f"{project['name']} needs {pin}, the tree has {pin.name} {version}"


def date_changelog(root: Path, distribution: str, version: str) -> None:
    """Replace ``(unreleased)`` by the date of today."""
    file = root / "packages" / distribution / "CHANGELOG.md"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    heading = f"## {version} ({today})"
    file.write_text(UNRELEASED.sub(heading, file.read_text(), count=1))


def open_next(root: Path, distribution: str, following: str) -> None:
    """Set the version that is developed next, and open its section of the changelog."""
    file = version_file(root, distribution)
    file.write_text(re.sub(r'"[^"]+"', f'"{following}"', file.read_text(), count=1))
    changelog = root / "packages" / distribution / "CHANGELOG.md"
    head, _, rest = changelog.read_text().partition("\n## ")
    changelog.write_text(f"{head}\n## {following} (unreleased)\n\n## {rest}")


def build_and_import(tree: Path, distribution: str, version: str, scratch: Path) -> None:
    """Build wheel and sdist, look inside, install the wheel in a clean environment, import all."""
    dist, others = scratch / "dist", scratch / "others"
    folder = f"packages/{distribution}"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), folder, cwd=tree)
    run(sys.executable, "tools/check_archives.py", str(dist), distribution, cwd=tree)
    siblings = [str(path.parent) for path in sorted((tree / "packages").glob("*/pyproject.toml"))]
    wheel = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    run(*wheel, "-w", str(others), *(path for path in siblings if Path(path).name != distribution))
    run(sys.executable, "-m", "venv", str(scratch / "clean"))
    python = str(scratch / "clean" / "bin" / "python")
    (built,) = dist.glob("*.whl")
    install = (python, "-m", "pip", "install", "-q", "-c", str(CONSTRAINTS))
    wanted = f"{built}{EXTRAS.get(distribution, '')}"
    run(*install, "--find-links", str(others), wanted, "setuptools>=70.1")
    module = import_name(distribution)
    run(python, "-I", "-c", IMPORT_ALL.format(module=module, version=version), cwd=scratch)


def record(root: Path, distribution: str, version: str, commit: str) -> None:
    """Append a release to ``tools/releases.toml``."""
    file = root / RECORD.relative_to(ROOT)
    entry = f'[[release]]\ndistribution = "{distribution}"\nversion = "{version}"\n'
    file.write_text(f'{file.read_text()}\n{entry}commit = "{commit}"\n')


def release(distribution: str, version: str, following: str) -> str:
    """Make the release in a worktree, move the branch on, and return the released commit."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        tree = scratch / "tree"
        run("git", "worktree", "add", "--detach", str(tree))
        try:
            date_changelog(tree, distribution, version)
            run("git", "commit", "-qam", f"{distribution} {version}", cwd=tree)
            commit = run("git", "rev-parse", "HEAD", cwd=tree).strip()
            build_and_import(tree, distribution, version, scratch)
            record(tree, distribution, version, commit)
            open_next(tree, distribution, following)
            run("git", "commit", "-qam", f"{distribution} {version} is recorded", cwd=tree)
            run("git", "merge", "--ff-only", run("git", "rev-parse", "HEAD", cwd=tree).strip())
        finally:
            run("git", "worktree", "remove", "--force", str(tree))
    return commit


def main() -> int:
    """Print what was released, or every reason against it, and return the exit code."""
    parser = argparse.ArgumentParser(description="Release one distribution of the tree.")
    parser.add_argument("distribution")
    parser.add_argument("--next", metavar="VERSION", help="developed next; default the next patch")
    parser.add_argument("--check", action="store_true", help="check only, build nothing")
    options = parser.parse_args()
    if not (ROOT / "packages" / options.distribution).is_dir():
        parser.error(f"no distribution '{options.distribution}' in packages/")
    version = tree_version(ROOT, options.distribution)
    number = Version(version)
    following = options.next or f"{number.major}.{number.minor}.{number.micro + 1}"
    try:
        if Version(following) <= number:
            parser.error(f"--next must be above {version}")
    except InvalidVersion as error:
        parser.error(str(error))
    found = list(problems(options.distribution))
    for problem in found:
        print(f"{options.distribution}: {problem}", file=sys.stderr)
    if found or options.check:
        return int(bool(found))
    commit = release(options.distribution, version, following)
    print(f"released {options.distribution} {version} at {commit}; {following} is developed next")
    return 0


if __name__ == "__main__":
    sys.exit(main())
