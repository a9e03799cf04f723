"""Installed distributions: the layers, whether requirements are satisfied, who owns `nequip`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from nequip_core.doctor.findings import ABSENT, BROKEN, INFO, OK, WARNING, Finding

__all__ = [
    "LAYERS",
    "distributions_by_name",
    "install_command",
    "look_at_import_name",
    "look_at_layers",
    "look_at_python",
    "requirements_of",
    "unsatisfied",
]

LAYERS = {
    "nequip-core": "reads packages and compiled models",
    "nequip-model": "builds models",
    "nequip-train": "trains them",
    "nequip-package": "archives them",
    "nequip-compile": "compiles them",
    "nequip-integrations": "runs them in ASE",
    "nequip-kernels": "makes their convolutions fast",
    "nequip": "all of them, as nequip.*",
}
"""Distributions of this project, lowest first, with what each is for."""
_FACADE = "nequip"
_LEAST_PYTHON = (3, 11)


def distributions_by_name() -> dict[str, list[Distribution]]:
    """Return what is installed, by canonical name; more than one where it is there twice."""
    found: dict[str, list[Distribution]] = {}
    for distribution in importlib.metadata.distributions():
        try:
            name = distribution.metadata["Name"]
        except (OSError, TypeError, ValueError, KeyError):
            continue  # a folder that an interrupted pip left behind
        if name and distribution.version:
            known = found.setdefault(canonicalize_name(name), [])
            if all(_place(distribution) != _place(other) for other in known):
                known.append(distribution)
    return found


def requirements_of(distribution: Distribution, extra: str = "") -> list[Requirement]:
    """Return what a distribution requires here.

    Args:
        distribution: an installed distribution.
        extra: return what this extra adds instead.
    """
    found = []
    for text in distribution.requires or []:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        marker = requirement.marker
        without = marker is None or marker.evaluate({"extra": ""})
        if extra:
            if not without and marker is not None and marker.evaluate({"extra": extra}):
                found.append(requirement)
        elif without:
            found.append(requirement)
    return found


def unsatisfied(
    requirements: list[Requirement], installed: dict[str, list[Distribution]]
) -> list[str]:
    """Return a text for each requirement that what is installed does not satisfy."""
    texts = []
    for requirement in requirements:
        wanted = f"{requirement.name}{requirement.specifier}"
        found = installed.get(canonicalize_name(requirement.name))
        if not found:
            texts.append(f"needs {wanted}, which is not installed")
        elif not _is_version(found[0].version):
            texts.append(f"needs {wanted}, found '{found[0].version}', which is no version")
        elif not requirement.specifier.contains(found[0].version, prereleases=True):
            texts.append(f"needs {wanted}, found {found[0].version}")
    return texts


def install_command(*requirements: Requirement | str) -> str:
    """Return the pip command that installs them."""
    words = []
    for requirement in requirements:
        text = (
            requirement
            if isinstance(requirement, str)
            else (f"{requirement.name}{requirement.specifier}")
        )
        words.append(f'"{text}"' if any(sign in text for sign in "<>=[!~;") else text)
    return f"pip install {' '.join(words)}"


def look_at_python() -> list[Finding]:
    """Return the Python, whether it is new enough, and the platform."""
    version, wanted = platform.python_version(), ".".join(map(str, _LEAST_PYTHON))
    enough = sys.version_info[:2] >= _LEAST_PYTHON
    system = f"{platform.system()} {platform.machine()}"
    libc = " ".join(part for part in platform.libc_ver() if part)
    return [
        Finding("python", OK, f"{version} at {sys.executable}")
        if enough
        else Finding("python", BROKEN, version, f"use Python {wanted} or newer"),
        Finding("system", INFO, f"{system}, {libc}" if libc else system),
    ]


def look_at_layers(installed: dict[str, list[Distribution]]) -> list[Finding]:
    """Return the layers with their versions, and the requirements that are not satisfied."""
    findings = []
    for name, purpose in LAYERS.items():
        found = installed.get(name, [])
        if not found or (name == _FACADE and not _is_facade(found[0])):
            advice = f"pip install ./packages/{name} (in a clone of this project)"
            findings.append(Finding(name, ABSENT, purpose, advice))
            continue
        if len(found) > 1:
            text = " and ".join(f"{each.version} in {_place(each)}" for each in found)
            advice = f"pip uninstall {name}, until pip finds none, and install it once"
            findings.append(Finding(name, BROKEN, f"installed {len(found)} times: {text}", advice))
            continue
        findings.append(_look_at_layer(name, found[0], installed))
    return findings


def _look_at_layer(
    name: str, distribution: Distribution, installed: dict[str, list[Distribution]]
) -> Finding:
    requirements = requirements_of(distribution)
    lacking = unsatisfied(requirements, installed)
    if not lacking:
        pins = [f"{r.name}{r.specifier}" for r in requirements if r.name in LAYERS]
        text = f"{distribution.version}; requirements satisfied"
        return Finding(name, OK, f"{text} ({', '.join(pins)})" if pins else text)
    wrong = [r for r in requirements if unsatisfied([r], installed)]
    others = [r for r in wrong if r.name not in LAYERS]
    layers = " ".join(f"./packages/{r.name}" for r in wrong if r.name in LAYERS)
    commands = [install_command(*others)] if others else []
    if layers:
        commands.append(f"pip install --upgrade {layers} (in a clone of this project)")
    text = f"{distribution.version}; {'; '.join(lacking)}"
    return Finding(name, BROKEN, text, ", then ".join(commands))


def look_at_import_name(installed: dict[str, list[Distribution]]) -> list[Finding]:
    """Return who owns the import name ``nequip``: the facade, another distribution, or nobody."""
    owners = list(_owners(installed))
    facades = [owner for owner in owners if _is_facade(owner)]
    others = [owner for owner in owners if owner not in facades]
    named = " and ".join(f"{owner.metadata['Name']} {owner.version}" for owner in owners)
    if facades and others:
        advice = "the files of one overwrite those of the other: pip uninstall nequip, then install"
        text = f"owned by {named}"
        return [Finding("import nequip", BROKEN, text, f"{advice} one of them again")]
    if others:
        text = (
            f"owned by {named}, another implementation; our layers work beside it, but "
            "`import nequip` and its commands nequip-train, nequip-package, nequip-compile can be "
            "its own"
        )
        advice = "to have ours under that name: pip uninstall nequip, then install our facade"
        return [Finding("import nequip", WARNING, text, advice)]
    if facades:
        return [Finding("import nequip", OK, f"owned by {named}, our facade")]
    spec = importlib.util.find_spec("nequip")
    if spec is not None:
        place = spec.origin or ", ".join(spec.submodule_search_locations or [])
        text = f"found at {place}, which no installed distribution owns"
        return [Finding("import nequip", WARNING, text, "remove it from the path")]
    return [Finding("import nequip", ABSENT, "nobody owns it; our layers do not need it")]


def _owners(installed: dict[str, list[Distribution]]) -> Iterator[Distribution]:
    for name, found in installed.items():
        for distribution in found:
            if name == _FACADE or _owns_package(distribution):
                yield distribution


def _owns_package(distribution: Distribution) -> bool:
    # The text of RECORD, not .files: that makes an object of every file of every distribution.
    record = distribution.read_text("RECORD") or ""
    return record.startswith("nequip/__init__.py,") or "\nnequip/__init__.py," in record


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _is_facade(distribution: Distribution) -> bool:
    names = {canonicalize_name(r.name) for r in requirements_of(distribution)}
    return "nequip-core" in names


def _place(distribution: Distribution) -> str:
    return str(Path(str(distribution.locate_file(""))).resolve())
