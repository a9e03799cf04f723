"""LAMMPS as a process, or several, with the plugin loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nequip_integrations.lammps.installation import LammpsInstallation, mpi_launcher

__all__ = ["lammps_environment", "lammps_words"]

_PLUGIN_PATH = "LAMMPS_PLUGIN_PATH"
_THREADS = "OMP_NUM_THREADS"


def lammps_words(
    lammps: LammpsInstallation, processes: int | None, arguments: Sequence[str]
) -> list[str]:
    """Return the command line that starts LAMMPS.

    Args:
        lammps: what is installed.
        processes: how many; None: one, without MPI's launcher.
        arguments: of LAMMPS, e.g. ``-in in.lmp``.

    Raises:
        MissingDependencyError: several processes, and MPI's launcher is not installed.
    """
    launcher = [] if processes is None else [str(mpi_launcher()), "-np", str(processes)]
    return [*launcher, str(lammps.program), *arguments]


def lammps_environment(
    given: Mapping[str, str], plugin: Path | None, processes: int | None, mpi_library: Path | None
) -> dict[str, str]:
    """Return the environment of LAMMPS.

    Args:
        given: the environment that it starts from.
        plugin: the compiled plugin, which LAMMPS loads when it starts.
        processes: how many there are on this machine.
        mpi_library: MPI's library, which ``lmp`` does not find by itself; None to let it look.
    """
    made = dict(given)
    if mpi_library is not None:
        _prepend(made, "LD_LIBRARY_PATH", mpi_library.parent)
    if plugin is not None:
        _prepend(made, _PLUGIN_PATH, plugin.parent)
    if _THREADS not in made:
        # Otherwise each process would use all cores.
        made[_THREADS] = str(max(1, (os.cpu_count() or 1) // (processes or 1)))
    return made


def _prepend(environment: dict[str, str], name: str, folder: Path) -> None:
    known = environment.get(name, "")
    environment[name] = f"{folder}{os.pathsep}{known}" if known else str(folder)
