"""Allegro of packages/nequip-allegro against the published nequip-allegro 0.8.3, in one run.

Both have the import name ``allegro``: each runs in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("allegro", reason="the bench session installs nequip-allegro==0.8.3")
pytest.importorskip("nequip.utils.global_state", reason="the bench session installs nequip==0.19.1")

PROGRAM = Path(__file__).with_name("allegro_process.py")
OURS = Path(__file__).parents[2] / "packages" / "nequip-allegro" / "src"
REFERENCE = "nequip 0.19.1"
# Task and atoms of fcc copper -> cells along each axis, steps to measure.
CASES = {
    ("prediction", 108): ("3 3 3", 7),
    ("prediction", 864): ("6 6 6", 3),
    ("prediction", 4000): ("10 10 10", 1),
    ("training step", 108): ("3 3 3", 5),
}


@pytest.fixture(scope="module")
def energies():
    """Energies by task, size and who: the two must compute the same."""
    return {}


@pytest.mark.parametrize("who", ["ours", REFERENCE])
@pytest.mark.parametrize(("task", "atoms"), CASES)
def test_allegro(benchmark, energies, who, task, atoms):
    benchmark.group = f"Allegro, {task}, Cu {atoms}"
    repeats, rounds = CASES[task, atoms]
    path = [str(OURS)] if who == "ours" else []
    path += [item for item in os.environ.get("PYTHONPATH", "").split(os.pathsep) if item]
    path = [item for item in path if who == "ours" or Path(item).resolve() != OURS.resolve()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
    words = [sys.executable, "-W", "ignore", str(PROGRAM), who.split()[0], task, repeats]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["atoms"] == atoms

        def step():
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "{}\n"

        benchmark.pedantic(step, rounds=rounds)
        process.stdin.close()
        benchmark.extra_info["peak"] = json.loads(process.stdout.readline())["peak"]
    energies[task, atoms, who] = first["energy"]
    if (task, atoms, "ours") in energies and (task, atoms, REFERENCE) in energies:
        found, expected = energies[task, atoms, "ours"], energies[task, atoms, REFERENCE]
        assert abs(found - expected) < 1e-4 * max(abs(expected), 1.0)
