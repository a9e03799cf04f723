"""What ``nequip-lammps doctor`` looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nequip_core.errors import NequIPError
from nequip_integrations.lammps.building import plugin_build
from nequip_integrations.lammps.installation import find_lammps, find_torch, mpi_launcher

__all__ = ["Finding", "examine"]


@dataclass(frozen=True)
class Finding:
    """One thing that LAMMPS with the plugin needs."""

    what: str
    fine: bool
    text: str
    """What was found, or what is missing and how to get it."""


def examine() -> list[Finding]:
    """Return what is there and what is missing; nothing is compiled."""
    return [
        _finding("LAMMPS", _lammps),
        _finding("MPI", lambda: str(mpi_launcher())),
        _finding("torch", _torch),
        _finding("compiler and headers", _compiler),
        _finding("plugin", _plugin),
    ]


def _finding(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except NequIPError as error:
        return Finding(what, False, str(error))


def _lammps() -> str:
    found = find_lammps()
    return f"{found.version} in {found.folder}"


def _torch() -> str:
    found = find_torch()
    return f"{found.version} in {found.folder}"


def _compiler() -> str:
    build = plugin_build()
    return f"{build.compiler[0]}, {build.compiler_version}"


def _plugin() -> str:
    build = plugin_build()
    if build.plugin.is_file():
        return str(build.plugin)
    return "not compiled yet: nequip-lammps build (the first run does it, too)"
