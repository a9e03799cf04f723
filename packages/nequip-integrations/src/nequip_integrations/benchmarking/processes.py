"""A measurement in a process of its own, whose peak of memory is that of one size alone."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io import write

__all__ = ["Measurement", "measured"]


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one model with one structure."""

    atoms: int
    edges: int = 0
    """Pairs within the cutoff, in both directions."""
    seconds: float = float("nan")
    """Of one evaluation with its neighbor list, the median."""
    fastest: float = float("nan")
    """Of the fastest evaluation."""
    evaluations: int = 0
    memory: float = float("nan")
    """Peak of the process, on a GPU of what it allocates there; bytes."""
    before: float = float("nan")
    """The same, after loading the model and before the first evaluation; bytes."""
    way: str = ""
    failure: str | None = None
    """Why there are no numbers."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields; what is not a number is None."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


def measured(model: str, arguments: Mapping[str, Any], atoms: Atoms, seconds: float) -> Measurement:
    """Return a measurement, made in a new process.

    Args:
        model: see `nequip_integrations.ase.NequIPCalculator`.
        arguments: keyword arguments of it.
        atoms: the structure.
        seconds: how long to measure, after warming up; at least three evaluations are made.
    """
    with tempfile.TemporaryDirectory(prefix="nequip-benchmark-") as folder:
        structure, answer = Path(folder) / "structure.traj", Path(folder) / "answer.json"
        write(structure, atoms)
        request = {
            "model": str(model),
            "arguments": {**arguments, "modifiers": list(arguments.get("modifiers", ()))},
            "structure": str(structure),
            "seconds": seconds,
            "answer": str(answer),
        }
        words = [sys.executable, "-m", "nequip_integrations.benchmarking.worker"]
        with subprocess.Popen(  # noqa: S603
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                _, errors = process.communicate(json.dumps(request))
            except BaseException:
                process.kill()
                raise
        empty = Measurement(len(atoms))
        if not answer.exists():
            return replace(empty, failure=_reason(process.returncode, errors))
        return replace(empty, **json.loads(answer.read_text()))


def _reason(code: int, errors: str) -> str:
    """Return why a process left no answer."""
    if code == -9:
        return "killed, most likely for lack of memory"
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), "")
    return f"ended with code {code}: {last}"
