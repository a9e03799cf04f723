"""Plugins that installed distributions offer, and whether each of them imports."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from importlib.metadata import Distribution, EntryPoint

from nequip_core import plugins
from nequip_core.doctor.findings import BROKEN, INFO, OK, SKIPPED, WARNING, Finding
from nequip_core.doctor.installed import LAYERS, requirements_of, unsatisfied
from nequip_core.doctor.isolation import Outcome, Probe
from nequip_core.errors import closest

__all__ = ["GROUPS", "look_at_plugins", "offered_entries", "probes_of_entries"]

GROUPS = (
    plugins.MODEL_LOADERS,
    plugins.ARCHITECTURES,
    plugins.NEIGHBOR_BACKENDS,
    plugins.COMPILE_TARGETS,
    plugins.CONVERTERS,
    plugins.PACKAGING,
    plugins.REBUILD,
    plugins.BEFORE_TRAINING,
    plugins.EXTENSIONS,
)
"""Entry-point groups that the layers read, see `nequip_core.plugins`."""
# Groups of which an installation has one entry, whatever its name.
_ONE_ONLY = (plugins.REBUILD,)


def offered_entries() -> list[EntryPoint]:
    """Return every entry point of a group whose name starts with ``nequip.``, sorted."""
    unique = {}
    # Of Python 3.11 and of 3.12 alike: both name the groups.
    groups = sorted(importlib.metadata.entry_points().groups)
    for group in (group for group in groups if group.startswith("nequip.")):
        for entry in importlib.metadata.entry_points(group=group):
            # A distribution on the path twice (editable and wheel) lists its entries twice.
            unique[(entry.group, _owner(entry), entry.name, entry.value)] = entry
    return [unique[key] for key in sorted(unique)]


def probes_of_entries(entries: Sequence[EntryPoint]) -> list[Probe]:
    """Return a probe for each entry, in their order."""
    return [Probe("entry", (entry.group, entry.name, entry.value)) for entry in entries]


def look_at_plugins(
    entries: Sequence[EntryPoint],
    outcomes: Sequence[Outcome | None],
    installed: dict[str, list[Distribution]],
) -> list[Finding]:
    """Return a finding for each group and distribution, each failure, and each duplicate.

    Args:
        entries: what is offered.
        outcomes: of the probe of each entry, None where it was not tried.
        installed: distributions by name.
    """
    findings = []
    grouped: dict[tuple[str, str], list[tuple[EntryPoint, Outcome | None]]] = {}
    for entry, outcome in zip(entries, outcomes, strict=True):
        grouped.setdefault((entry.group, _owner(entry)), []).append((entry, outcome))
    for (group, owner), members in grouped.items():
        names = ", ".join(_title(entry) for entry, _ in members)
        if group not in GROUPS:
            advice = f"no layer reads this group{closest(group, GROUPS)}"
            findings.append(Finding(group, WARNING, f"{names} ({owner})", advice))
            continue
        failed = [(entry, outcome) for entry, outcome in members if outcome and outcome.error]
        good = [_title(entry) for entry, outcome in members if not (outcome and outcome.error)]
        if good:
            tried = all(outcome is not None for _, outcome in members)
            state = OK if tried else SKIPPED
            findings.append(Finding(group, state, f"{', '.join(good)} ({owner})"))
        findings += [_failure(entry, outcome) for entry, outcome in failed]
    findings += _duplicates(entries)
    findings += _unsatisfied_extensions(entries, installed)
    return findings or [Finding("plugins", INFO, "none")]


def _failure(entry: EntryPoint, outcome: Outcome) -> Finding:
    text = f"{_title(entry)} ({_owner(entry)}) does not import: {outcome.error}"
    if outcome.error_type not in ("crash", "timeout"):
        text = f"{_title(entry)} ({_owner(entry)}) does not import: {outcome.error_type}: " + (
            outcome.error
        )
    name = entry.dist.name if entry.dist else ""
    advice = f"pip install --upgrade {name}, or pip uninstall {name}" if name else ""
    if name in LAYERS:
        advice = f"pip install --force-reinstall --no-deps ./packages/{name} (in a clone)"
    return Finding(entry.group, BROKEN, text, advice)


def _duplicates(entries: Sequence[EntryPoint]) -> list[Finding]:
    owners: dict[tuple[str, str], set[str]] = {}
    for entry in entries:
        if entry.group == plugins.EXTENSIONS or entry.group not in GROUPS:
            continue  # every extension may be called init_always
        name = "a rebuild" if entry.group in _ONE_ONLY else f"'{entry.name}'"
        owners.setdefault((entry.group, name), set()).add(_owner(entry))
    return [
        Finding(
            group,
            BROKEN,
            f"{name} is offered by {' and by '.join(sorted(found))}",
            "pip uninstall one of them",
        )
        for (group, name), found in owners.items()
        if len(found) > 1
    ]


def _unsatisfied_extensions(
    entries: Sequence[EntryPoint], installed: dict[str, list[Distribution]]
) -> list[Finding]:
    """Return what distributions that are no layers lack; those made for `nequip` work on ours."""
    found = {entry.dist.name: entry.dist for entry in entries if entry.dist}
    findings = []
    for name, distribution in sorted(found.items()):
        lacking = [] if name in LAYERS else unsatisfied(requirements_of(distribution), installed)
        if lacking:
            text = f"{distribution.version}; {'; '.join(lacking)}"
            findings.append(Finding(name, WARNING, text))
    return findings


def _owner(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"


def _title(entry: EntryPoint) -> str:
    return entry.value if entry.group == plugins.EXTENSIONS else entry.name
