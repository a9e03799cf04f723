"""Whole steps of training against the reference in one run: read ratios, not times."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("nequip.utils.global_state", reason="the bench session installs nequip==0.19.1")
pytest.importorskip("nequip_train", reason="the bench session installs nequip-train")

PROGRAM = Path(__file__).with_name("training_process.py")
REFERENCE = "nequip 0.19.1"
# Name in the table -> what the process calls it, steps to measure.
BATCHES = {
    "5 molecules of 15 atoms": ("molecules", 11),
    "Cu 256": ("crystal", 5),
}


@pytest.fixture(scope="module")
def losses():
    """Losses by batch, mode and who: the two must train the same."""
    return {}


@pytest.mark.parametrize("who", ["ours", REFERENCE])
@pytest.mark.parametrize("mode", ["eager", "compile"])
@pytest.mark.parametrize("batch", BATCHES)
def test_whole_training_step(benchmark, losses, who, mode, batch):
    name, rounds = BATCHES[batch]
    benchmark.group = f"whole training step, {mode}, {batch}"
    side = "reference" if who == REFERENCE else who
    words = [sys.executable, "-W", "ignore", str(PROGRAM), side, mode, name]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["atoms"] in (75, 256)

        def step():
            process.stdin.write("\n")
            process.stdin.flush()
            said = json.loads(process.stdout.readline())
            cpu.append(said["cpu"])
            return said["loss"]

        cpu = []
        start = time.perf_counter()
        losses[batch, mode, who] = [step()]
        benchmark.extra_info["first"] = time.perf_counter() - start
        losses[batch, mode, who].append(step())
        benchmark.pedantic(step, rounds=rounds)
        benchmark.extra_info["cpu"] = statistics.median(cpu[-rounds:])
        process.stdin.close()
        benchmark.extra_info["peak"] = json.loads(process.stdout.readlines()[-1])["peak"]
    known = [losses.get((batch, mode, one)) for one in ("ours", REFERENCE)]
    if all(known):
        assert known[0] == pytest.approx(known[1], rel=1e-3)
