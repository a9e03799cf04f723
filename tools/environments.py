"""Environments of the compatibility matrix: read from environments.toml, made with venv and pip.

Usage: python tools/environments.py NAME     prints the interpreter of the environment

Layers of a release are built from its commit, those of the tree from the tree, as wheels. An
environment is kept until its data change; when only the layers have changed, they are replaced.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from import_names import import_name
from released_wheels import ROOT, released_wheel, releases

DATA = ROOT / "tools" / "environments.toml"
WORK = ROOT / ".nox" / "matrix"
DISTRIBUTIONS = (
    "nequip-core",
    "nequip-model",
    "nequip-train",
    "nequip-package",
    "nequip-compile",
    "nequip-integrations[ase]",
    "nequip",
)
TREE = "tree"
# The extension that some archives are made with; the library came after 0.1.0.
EXTENSION = ("tests/extension/library", "tests/extension/template")


@dataclass(frozen=True)
class Environment:
    """One row or column of the matrix.

    Attributes:
        name: as in sessions and tables.
        reason: why it is there.
        layers: version, or ``tree``, by distribution.
        packages: what pip is asked for; may have extras.
        torch: version.
        e3nn: version; empty where nothing needs it.
        python: ``major.minor``.
        roles: ``write``, ``read``.
        subset: whether continuous integration runs it.
        refused: pattern of what pip must say instead of installing; empty where it must install.
    """

    name: str
    reason: str
    layers: dict[str, str]
    packages: tuple[str, ...]
    torch: str
    e3nn: str
    python: str
    roles: tuple[str, ...]
    subset: bool
    refused: str


def bare(requirement: str) -> str:
    """Return the distribution that a requirement names, without extras."""
    return requirement.partition("[")[0]


def read_environments(path: Path = DATA) -> dict[str, Environment]:
    """Return the environments by name.

    Raises:
        SystemExit: there is none, a name occurs twice, or one has no reason.
    """
    found: dict[str, Environment] = {}
    for entry in tomllib.loads(path.read_text()).get("environment", []):
        packages = tuple(entry.get("packages", DISTRIBUTIONS))
        layers = entry["layers"]
        if isinstance(layers, str):
            layers = {bare(name): layers for name in packages}
        environment = Environment(
            name=entry["name"],
            reason=entry.get("reason", ""),
            layers=layers,
            packages=packages,
            torch=entry["torch"],
            e3nn=entry.get("e3nn", ""),
            python=entry["python"],
            roles=tuple(entry["roles"]),
            subset=entry.get("subset", False),
            refused=entry.get("refused", ""),
        )
        if environment.name in found or not environment.reason:
            raise SystemExit(f"{path.name}: '{environment.name}' is there twice or has no reason")
        found[environment.name] = environment
    if not found:
        raise SystemExit(f"{path.name}: no environments")
    return found


def names(role: str, path: Path = DATA) -> list[str]:
    """Return the names of the environments with a role."""
    return [item.name for item in read_environments(path).values() if role in item.roles]


def find_python(version: str) -> str:
    """Return an interpreter of this ``major.minor`` version.

    Raises:
        SystemExit: there is none.
    """
    folder = Path.home() / ".pyenv" / "versions"
    candidates = [sys.executable, shutil.which(f"python{version}") or ""]
    candidates += [str(path / "bin" / "python") for path in sorted(folder.glob(f"{version}.*"))]
    question = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        # A name may be there and not run, as the shims of pyenv.
        done = subprocess.run([candidate, "-c", question], capture_output=True, text=True)
        if done.stdout.strip() == version:
            return candidate
    raise SystemExit(f"no python{version} on PATH or below {folder}; install it to run this cell")


def tree_digest(*folders: str) -> str:
    """Return a digest of files of the tree."""
    digest = hashlib.sha256()
    for folder in folders:
        files = [ROOT / folder / "pyproject.toml", *sorted((ROOT / folder / "src").rglob("*"))]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def build_wheel(source: Path, folder: Path) -> Path:
    """Return the wheel of the project in `source`, built into the empty `folder` if not yet."""
    if not list(folder.glob("*.whl")):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
        # Sessions may run at the same time: each builds for itself, and the file appears whole.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            subprocess.run([*command, "-w", scratch, str(source)], check=True, stdout=sys.stderr)
            (built,) = Path(scratch).glob("*.whl")
            built.replace(folder / built.name)
    (wheel,) = folder.glob("*.whl")
    return wheel


def wheel_of(distribution: str, version: str) -> Path:
    """Return the wheel of a distribution, of the tree or of a release."""
    if version != TREE:
        return released_wheel(distribution, version, WORK / "released")
    folder = f"packages/{distribution}"
    return build_wheel(ROOT / folder, WORK / "wheels" / f"{distribution}-{tree_digest(folder)}")


def extension_wheels(environment: Environment) -> list[Path]:
    """Return the wheels of the extension as it was for these layers; none without model code."""
    version = environment.layers.get("nequip-model")
    if version is None:
        return []
    if version == TREE:
        return [
            build_wheel(ROOT / path, WORK / "wheels" / f"{Path(path).name}-{tree_digest(path)}")
            for path in EXTENSION
        ]
    commit = releases()["nequip-model", version]
    return [wheel for path in EXTENSION for wheel in wheels_at(commit, path)]


def wheels_at(commit: str, path: str) -> list[Path]:
    """Return the wheel of the project that a commit has at a path; none where it has no such."""
    listed = subprocess.run(
        ["git", "ls-tree", "--name-only", commit, path],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    if not listed.stdout:
        return []
    folder = WORK / "released" / f"{Path(path).name}-{commit}"
    if not folder.exists():
        scratch = WORK / "released" / f"sources-{commit}"
        scratch.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["git", "archive", commit, path], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", str(scratch)], input=done.stdout, check=True)
        build_wheel(scratch / path, folder)
    return list(folder.glob("*.whl"))


def pip_arguments(environment: Environment) -> list[str]:
    """Return what pip is asked to install: wheels of the layers, and the pinned libraries."""
    wanted = []
    for requirement in environment.packages:
        name = bare(requirement)
        wheel = wheel_of(name, environment.layers[name])
        wanted.append(f"{wheel}{requirement.removeprefix(name)}")
    wanted += [str(wheel) for wheel in extension_wheels(environment)]
    constraints = WORK / "constraints" / f"{environment.name}.txt"
    constraints.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"torch=={environment.torch}"]
    lines += [f"e3nn=={environment.e3nn}"] if environment.e3nn else []
    constraints.write_text("\n".join(lines) + "\n")
    return ["-c", str(constraints), *wanted]


def check_refusal(environment: Environment) -> None:
    """Return if pip refuses the environment in words that match.

    Raises:
        SystemExit: it finds a solution, or says something else.
    """
    command = [find_python(environment.python), "-m", "pip", "install", "--dry-run"]
    command += ["--ignore-installed", *pip_arguments(environment)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = " ".join((done.stdout + done.stderr).split())
    if not done.returncode:
        raise SystemExit(f"'{environment.name}' must be refused by pip, and installs: {DATA.name}")
    if not re.search(environment.refused, said):
        wanted = f"'{environment.refused}'"
        raise SystemExit(f"pip refuses '{environment.name}', but not in words {wanted}:\n{said}")


def declared(distribution: str) -> list[object]:
    """Return what a distribution of the tree asks pip for."""
    file = ROOT / "packages" / distribution / "pyproject.toml"
    project = tomllib.loads(file.read_text())["project"]
    return [project["dependencies"], project.get("optional-dependencies")]


def make(environment: Environment) -> str:
    """Return the interpreter of an environment, made or brought up to date.

    Raises:
        SystemExit: its interpreter is missing, or it is one that pip refuses.
        CalledProcessError: pip fails.
    """
    if environment.refused:
        raise SystemExit(f"'{environment.name}' cannot be made: pip must refuse it")
    folder = WORK / "environments" / environment.name
    python = str(folder / "bin" / "python")
    wanted = pip_arguments(environment)
    needs = [declared(name) for name in environment.layers]
    base = hashlib.sha256(
        repr([environment.torch, environment.e3nn, environment.python, needs]).encode()
    ).hexdigest()
    stamp = folder / "stamp"
    old = stamp.read_text().split("\n") if stamp.exists() else []
    if old == [base, *wanted]:
        return python
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    if old[:1] == [base]:
        print(f"replacing the layers of '{environment.name}'", file=sys.stderr)
        stamp.unlink()
        wheels = [re.sub(r"\[.*\]$", "", name) for name in wanted[2:]]
        command = [*install, "--no-deps", "--force-reinstall", *wheels]
    else:
        print(f"making '{environment.name}'", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        made = [find_python(environment.python), "-m", "venv", str(folder)]
        subprocess.run(made, check=True, stdout=sys.stderr)
        command = [*install, *wanted]
    subprocess.run(command, check=True, stdout=sys.stderr)
    stamp.write_text("\n".join([base, *wanted]))
    return python


def expected_versions(environment: Environment) -> list[str]:
    """Return ``DIST==VERSION`` of everything that an environment must have."""
    versions = {
        name: re.findall(r'"([^"]+)"', version_file(name))[0] if version == TREE else version
        for name, version in environment.layers.items()
    }
    versions["torch"] = environment.torch
    if environment.e3nn:
        versions["e3nn"] = environment.e3nn
    versions["python"] = environment.python
    return [f"{name}=={version}" for name, version in versions.items()]


def version_file(distribution: str) -> str:
    """Return the text that holds the version of a distribution of the tree."""
    module = import_name(distribution)
    return (ROOT / "packages" / distribution / "src" / module / "_version.py").read_text()


def main() -> int:
    """Print the interpreter of the environment that is named."""
    environments = read_environments()
    if len(sys.argv) != 2 or sys.argv[1] not in environments:
        raise SystemExit(f"usage: environments.py NAME, one of {', '.join(environments)}")
    environment = environments[sys.argv[1]]
    if environment.refused:
        check_refusal(environment)
        print(f"pip refuses '{environment.name}': {environment.refused}")
    else:
        print(make(environment))
    return 0


__all__ = ["Environment", "expected_versions", "make", "names", "read_environments"]

if __name__ == "__main__":
    sys.exit(main())
