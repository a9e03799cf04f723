"""Steps of dynamics in each engine, against the reference where it runs there: eager, same weights.

Every engine is a process of its own with one thread. i-PI has no driver of the reference.
"""

import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("engine_process.py")
REFERENCE = "nequip 0.19.1"
MODULES = {"ASE": "ase", "torch-sim": "torch_sim", "OpenMM": "openmmml", "i-PI": "ipi"}
ATOMS, REPEATS = 108, "3 3 3"
STEPS = 8


@pytest.fixture(scope="module")
def energies():
    """Energy of the structure in each engine so far: all evaluate the same network."""
    return []


@pytest.mark.parametrize("who", ["ours", REFERENCE])
@pytest.mark.parametrize("engine", MODULES)
def test_step(benchmark, checkpoints, energies, engine, who):
    if importlib.util.find_spec(MODULES[engine]) is None:
        pytest.skip(f"{MODULES[engine]} is not installed")
    if (engine, who) == ("i-PI", REFERENCE):
        pytest.skip("the reference has no driver of i-PI")
    benchmark.group = f"step in {engine}, eager, {ATOMS} atoms"
    role = "ours" if who == "ours" else "reference"
    words = [sys.executable, PROGRAM, role, engine, checkpoints[who], REPEATS]
    with subprocess.Popen(
        list(map(str, words)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        first = process.stdout.readline()
        assert first, f"{engine} with {who} did not start"
        energy, clock = json.loads(first)["energy"], []

        def step():
            process.stdin.write("\n")
            process.stdin.flush()
            clock.append(json.loads(process.stdout.readline())["cpu"])

        benchmark.pedantic(step, warmup_rounds=2, rounds=STEPS)
        process.stdin.close()
    spent = [after - before for before, after in itertools.pairwise(clock[1:])]
    benchmark.extra_info["cpu"] = statistics.median(spent)
    energies.append(energy)
    assert energy == pytest.approx(energies[0], rel=1e-4, abs=1e-3)
