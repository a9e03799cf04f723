"""Probes in a process of their own, so that a crash or a hang of one is a finding, not an end.

One process runs all probes as long as it lives. If it dies or takes too long, the probe that it was
at is blamed, and a new process goes on with the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

__all__ = ["Outcome", "Probe", "run_probes"]

_START_SECONDS = 60.0  # a Python on a busy network file system


@dataclass(frozen=True)
class Probe:
    """What to try.

    Args:
        kind: name of a function of `nequip_core.doctor.worker`.
        arguments: its arguments.
        seconds: how long it may take. The first one imports torch, from a cold disk.
    """

    kind: str
    arguments: tuple[str, ...] = ()
    seconds: float = 120.0


@dataclass(frozen=True)
class Outcome:
    """What came of a probe.

    Args:
        error: what went wrong; empty if nothing.
        error_type: name of the exception class; ``crash`` or ``timeout`` if there was none.
        value: what the probe found.
    """

    error: str = ""
    error_type: str = ""
    value: dict[str, Any] = field(default_factory=dict)


def run_probes(probes: Sequence[Probe]) -> list[Outcome]:
    """Return the outcome of each probe, in order."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(probes):
        # Each call adds one outcome at least: that of the probe that ended the process.
        outcomes += _run_until_death(probes[len(outcomes) :])
    return outcomes


def _run_until_death(probes: Sequence[Probe]) -> list[Outcome]:
    with (
        tempfile.TemporaryDirectory(prefix="nequip-doctor-") as folder,
        tempfile.TemporaryFile() as complaints,
    ):
        # What torch compiles for a probe must not come from, nor go to, the user's cache. Its
        # precompiled headers, 300 MB, go to the folder of temporary files whatever the cache is.
        cache = {"TORCHINDUCTOR_CACHE_DIR": folder, "TMPDIR": folder}
        environment = {**os.environ, **cache}
        process = subprocess.Popen(
            # -P: the user's working folder must not take the place of an installed module.
            [sys.executable, "-P", "-m", "nequip_core.doctor.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        try:
            return _collected(process, probes, complaints)
        finally:
            _end(process)


def _collected(
    process: subprocess.Popen[bytes], probes: Sequence[Probe], complaints: IO[bytes]
) -> list[Outcome]:
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    tasks = [[probe.kind, *probe.arguments] for probe in probes]
    with contextlib.suppress(OSError):  # it died already; its exit status tells
        process.stdin.write(json.dumps(tasks).encode())  # type: ignore[union-attr]
        process.stdin.close()  # type: ignore[union-attr]
    outcomes: list[Outcome] = []
    for probe in probes:
        extra = _START_SECONDS if not outcomes else 0.0
        try:
            line = lines.get(timeout=probe.seconds + extra)
        except queue.Empty:
            text = f"no answer within {probe.seconds:.0f} s"
            return [*outcomes, Outcome(text, "timeout")]
        if line is None:
            return [*outcomes, Outcome(_death(process, complaints), "crash")]
        outcomes.append(Outcome(**json.loads(line)))
    return outcomes


def _read(process: subprocess.Popen[bytes], lines: queue.Queue[bytes | None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in process.stdout:  # type: ignore[union-attr]
            lines.put(line)
    lines.put(None)


def _death(process: subprocess.Popen[bytes], complaints: IO[bytes]) -> str:
    """Return how the process ended, with the last line that it wrote."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10.0)
    code = process.returncode
    if code is not None and code < 0:
        try:
            how = f"crashed with {signal.Signals(-code).name}"
        except ValueError:
            how = f"crashed with signal {-code}"
    else:
        how = f"ended the process with exit code {code}"
    complaints.seek(0)
    written = complaints.read()[-4000:].decode(errors="replace").strip().splitlines()
    return f"{how}: {written[-1].strip()[:300]}" if written else how


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it started, compilers for example."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
