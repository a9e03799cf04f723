"""The files of a run: trajectory, log and state, whole at every moment.

A structure and its line in the log are appended, then the state is replaced, which says how long
the two files are. Whatever came after that in an interrupted run is cut off when it goes on.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_extxyz

from nequip_core.errors import ConfigError, FileFormatError, MissingFileError
from nequip_core.files import atomic_path

__all__ = ["RunFiles", "SavedState", "append_whole", "with_results"]

_VERSION = 1


@dataclass
class SavedState:
    """Where a run is."""

    step: int
    settings: dict[str, Any]
    """What must be the same when the run goes on."""
    arrays: dict[str, np.ndarray]
    """Positions, momenta, cell, and the inner state of the integrator."""
    trajectory_size: int
    log_size: int


class RunFiles:
    """The files of a run.

    Args:
        prefix: path that their names begin with.
    """

    def __init__(self, prefix: Path) -> None:
        def named(suffix: str) -> Path:
            return prefix.with_name(prefix.name + suffix)

        self.trajectory = named(".xyz")
        self.log = named(".csv")
        self.state = named(".state.npz")
        self.summary = named(".json")
        self.plot = named(".png")

    def require_new(self) -> None:
        """Check that no run is overwritten.

        Raises:
            ConfigError: there is one.
        """
        for path in (self.state, self.trajectory):
            if path.exists():
                raise ConfigError(
                    f"there is a run at '{path}': --resume goes on with it, -o names another "
                    "place, --overwrite starts anew"
                )

    def start(self, columns: list[str]) -> None:
        """Begin empty files.

        Raises:
            MissingFileError: the folder cannot be written to.
        """
        try:
            self.trajectory.parent.mkdir(parents=True, exist_ok=True)
            self.state.unlink(missing_ok=True)
            self.trajectory.write_text("")
            self.log.write_text(",".join(columns) + "\n")
        except OSError as error:
            reason = error.strerror or str(error)
            raise MissingFileError(f"cannot write '{self.trajectory}': {reason}") from error

    def record(
        self, atoms: Atoms, step: int, row: list[float | None], settings: Any, inner: Any
    ) -> None:
        """Append a structure and its line in the log, and save where the run is."""
        append_whole(self.trajectory, _as_text(atoms, step))
        cells = ["" if value is None else f"{value:.10g}" for value in row]
        append_whole(self.log, ",".join(cells) + "\n")
        sizes = [self.trajectory.stat().st_size, self.log.stat().st_size]
        header = {"version": _VERSION, "step": step, "settings": settings, "sizes": sizes}
        with atomic_path(self.state) as path, path.open("wb") as stream:
            np.savez(
                stream,
                header=np.array(json.dumps(header)),
                numbers=atoms.numbers,
                pbc=atoms.pbc,
                positions=atoms.get_positions(),
                momenta=atoms.get_momenta(),
                masses=atoms.get_masses(),
                cell=atoms.cell.array,
                **inner,
            )

    def saved(self, settings: Mapping[str, Any]) -> SavedState:
        """Return where a run is, and cut off what came later.

        Args:
            settings: what the run must have been started with.

        Raises:
            MissingFileError: there is no run.
            FileFormatError: its state or its files are damaged.
            ConfigError: it was started with other settings.
        """
        if not self.state.exists():
            raise MissingFileError(f"no run to go on with: there is no '{self.state}'")
        try:
            # A file of our own: numpy leaves a damaged one open.
            with self.state.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                arrays = dict(content)
            header = json.loads(str(arrays.pop("header")))
            sizes, step, before = header["sizes"], int(header["step"]), header["settings"]
            version = header["version"]
        except Exception as error:  # whatever a damaged file makes of numpy and json
            raise FileFormatError(f"'{self.state}' is damaged ({error}); start anew") from error
        if version != _VERSION:
            raise FileFormatError(f"'{self.state}' is of another version: {version}")
        changed = [key for key in settings if before.get(key) != settings[key]]
        if changed:
            found = ", ".join(
                f"{key} {before.get(key)!r}, now {settings[key]!r}" for key in changed
            )
            raise ConfigError(f"the run was started with other settings: {found}")
        for path, size in zip((self.trajectory, self.log), sizes, strict=True):
            if not path.exists() or path.stat().st_size < size:
                raise FileFormatError(f"'{path}' is shorter than the run left it; start anew")
            with path.open("r+b") as file:
                file.truncate(size)
        return SavedState(step, before, arrays, *sizes)


def append_whole(path: Path, text: str) -> None:
    """Append a text to a file; where it does not fit the file stays as it was."""
    size = path.stat().st_size
    try:
        with path.open("ab") as stream:
            stream.write(text.encode())
    except BaseException:
        with path.open("r+b") as stream:
            stream.truncate(size)
        raise


def with_results(atoms: Atoms) -> Atoms:
    """Return a copy that carries the results that its calculator has now."""
    copy = atoms.copy()
    known = atoms.calc.results
    results = {key: known[key] for key in ("energy", "forces", "stress") if key in known}
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def _as_text(atoms: Atoms, step: int) -> str:
    """Return a structure with its results as extended XYZ."""
    copy = with_results(atoms)
    copy.info["step"] = step
    stream = io.StringIO()
    write_extxyz(stream, [copy])
    return stream.getvalue()
