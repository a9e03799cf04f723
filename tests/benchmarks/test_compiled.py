"""Compiled and eager models in molecular dynamics, against the reference, on the same weights.

Every command and every calculator is a process of its own with one thread: what one leaves behind
(compiled code in a cache, memory, threads) is not measured with the next.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("calculator_process.py")
REFERENCE = "nequip 0.19.1"
BOTH = pytest.mark.parametrize("who", ["ours", REFERENCE])
COMMANDS = {
    "ours": "from nequip_compile.command import main",
    REFERENCE: "from nequip.scripts.compile import main",
}
OPTIONS = ("--mode", "aotinductor", "--device", "cpu", "--target", "ase")
# Atoms of fcc copper -> cells along each axis, steps to measure.
SYSTEMS = {24: ("2 3 1", 15), 108: ("3 3 3", 9), 500: ("5 5 5", 3), 2048: ("8 8 8", 2)}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What processes see: one thread, empty caches that this module's processes share."""
    caches = {"XDG_CACHE_HOME": "cache", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
    folder = tmp_path_factory.mktemp("caches")
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        **{name: str(folder / value) for name, value in caches.items()},
    }


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Where the compiled files are, or will be."""
    folder = tmp_path_factory.mktemp("compiled")
    return {"ours": folder / "ours.nequip.pt2", REFERENCE: folder / "theirs.nequip.pt2"}


def compile_model(who, checkpoint, output, environment):
    program = f"import sys; {COMMANDS[who]}; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-W", "ignore", "-c", program, str(checkpoint), str(output), *OPTIONS]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert output.is_file()


@BOTH
def test_compile(benchmark, checkpoints, compiled, environment, tmp_path, who):
    benchmark.group = "nequip-compile"
    # The two share no cache: the second would profit from the first.
    own = {**environment, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    benchmark.pedantic(lambda: compile_model(who, checkpoints[who], compiled[who], own), rounds=1)
    benchmark.extra_info["bytes"] = compiled[who].stat().st_size


def test_compile_again(benchmark, checkpoints, compiled, environment, tmp_path):
    benchmark.group = "nequip-compile of what was compiled before"
    source = checkpoints["ours"]
    if not compiled["ours"].exists():
        compile_model("ours", source, compiled["ours"], environment)
    again = tmp_path / "again.nequip.pt2"
    benchmark.pedantic(lambda: compile_model("ours", source, again, environment), rounds=3)


@contextlib.contextmanager
def calculator(who, way, path, repeats, environment):
    """A process that makes a step when told so: yields it and what it said after loading."""
    words = [PROGRAM, "ours" if who == "ours" else "reference", way, path, repeats]
    with subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        yield process, json.loads(process.stdout.readline())


def step(process):
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "{}\n"


def file_of(who, way, checkpoints, compiled, environment):
    if way == "eager":
        return checkpoints[who]
    if not compiled[who].exists():
        compile_model(who, checkpoints[who], compiled[who], environment)
    return compiled[who]


@pytest.fixture(scope="module")
def energies():
    """Atoms -> energy of the structure by each way so far: all evaluate the same network."""
    return {}


@BOTH
@pytest.mark.parametrize("way", ["eager", "AOTInductor"])
@pytest.mark.parametrize("atoms", SYSTEMS)
def test_dynamics(benchmark, checkpoints, compiled, environment, energies, who, way, atoms):
    benchmark.group = f"step of molecular dynamics, {way}, {atoms} atoms"
    repeats, rounds = SYSTEMS[atoms]
    path = file_of(who, way, checkpoints, compiled, environment)
    with calculator(who, way, path, repeats, environment) as (process, said):
        benchmark.pedantic(step, (process,), warmup_rounds=1, rounds=rounds)
        process.stdin.close()
        benchmark.extra_info["peak"] = json.loads(process.stdout.readline())["peak"]
        benchmark.extra_info["loading"] = said["loading"]
    energies.setdefault(atoms, said["energy"])
    assert said["energy"] == pytest.approx(energies[atoms], rel=1e-4, abs=1e-3)
