"""Errors and times of training on acetylacetone, beside the reference: tables for benchmarks.md.

    python tests/benchmarks/acac.py --data FOLDER --reference PATH/nequip-train
        [--seeds 1 2 3] [--folder RUNS] [HYDRA OVERRIDES]

FOLDER has train_300K.xyz, test_MD_300K.xyz and test_MD_600K.xyz (BOTNet's, or those of
acac_frames.py). The reference is the nequip-train of an environment with nequip==0.19.1, ours that
of the interpreter that runs this. For each seed both train what acac.yaml says, the same file, at
the same time with one thread each. Runs that are in RUNS already are read, not made again.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

CONFIG = Path(__file__).with_suffix(".yaml")
REFERENCE = "nequip 0.19.1"
# Row -> metric, and what one unit of the table is.
ERRORS = {
    "energy MAE, meV/atom": ("per_atom_energy_mae", 1e-3),
    "energy RMSE, meV/atom": ("per_atom_energy_rmse", 1e-3),
    "forces MAE, meV/Å": ("forces_mae", 1e-3),
    "forces RMSE, meV/Å": ("forces_rmse", 1e-3),
}
TESTS = ("test_MD_300K", "test_MD_600K")


def start(command, run, data, seed, overrides):
    """Start a training in the folder `run` and return the process."""
    run.mkdir(parents=True)
    names = ("-cp", str(CONFIG.parent), "-cn", CONFIG.stem, f"hydra.run.dir={run}")
    settings = (f"folder={data}", f"seed={seed}", *overrides)
    off = {"NEQUIP_FRAME_CACHE": "off", "NEQUIP_STATISTICS_CACHE": "off", "OMP_NUM_THREADS": "1"}
    with (run / "output.log").open("w") as log:
        return subprocess.Popen(
            [*command, *names, *settings], stdout=log, stderr=log, env={**os.environ, **off}
        )


def side_by_side(commands, folder, data, seed, overrides):
    """Train with each of the commands at once, and write down what the processes took."""
    runs = {who: folder / f"seed{seed}" / who.replace(" ", "-") for who in commands}
    if all((run / "took.json").exists() for run in runs.values()):
        return runs
    began = time.time()
    waiting = {}
    for who, command in commands.items():
        waiting[start(command, runs[who], data, seed, overrides).pid] = who
    while waiting:
        pid, status, usage = os.wait4(-1, 0)
        run = runs[waiting[pid]]
        if status:
            raise SystemExit(f"{waiting[pid]}, seed {seed}: failed, see {run / 'output.log'}")
        took = {"wall": time.time() - began, "cpu": usage.ru_utime + usage.ru_stime}
        (run / "took.json").write_text(json.dumps({**took, "peak": 1024 * usage.ru_maxrss}))
        del waiting[pid]
    return runs


def errors(run):
    """Return the metrics of the test sets of a run by name."""
    with (run / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    return {
        key: float(value)
        for line in lines
        for key, value in line.items()
        if key.startswith("test") and value
    }


def epoch_seconds(runs):
    """Return the median time of an epoch by who, of those that ended while both trained."""
    ends = {
        who: sorted(file.stat().st_mtime for file in (run / "epochs").glob("*.ckpt"))
        for who, run in runs.items()
    }
    until = min(times[-1] for times in ends.values())
    return {
        who: statistics.median(b - a for a, b in pairwise(times) if b <= until)
        for who, times in ends.items()
    }


def table(runs):
    """Return the lines of the tables: errors of every seed, then times."""
    seeds = list(runs)
    beside = " | ".join(f"seed {seed}: {REFERENCE} | here" for seed in seeds)
    lines = [f"| | {beside} |", "|---|" + "---:|---:|" * len(seeds)]
    found = {(seed, who): errors(run) for seed in seeds for who, run in runs[seed].items()}
    for index, name in enumerate(TESTS):
        for what, (metric, unit) in ERRORS.items():
            numbers = [
                f"{found[seed, who][f'test{index}_epoch/{metric}'] / unit:#.4g}"
                for seed in seeds
                for who in (REFERENCE, "ours")
            ]
            lines.append(f"| {name}, {what} | {' | '.join(numbers)} |")
    took = {
        key: json.loads((run / "took.json").read_text())
        for seed in seeds
        for who, run in runs[seed].items()
        for key in [(seed, who)]
    }
    epochs = {seed: epoch_seconds(runs[seed]) for seed in seeds}
    times = {
        "wall time of an epoch, s": lambda seed, who: epochs[seed][who],
        "wall time of the command, s": lambda seed, who: took[seed, who]["wall"],
        "CPU time of the command, s": lambda seed, who: took[seed, who]["cpu"],
        "peak memory, MB": lambda seed, who: took[seed, who]["peak"] / 1e6,
    }
    for what, of in times.items():
        numbers = [f"{of(seed, who):.3g}" for seed in seeds for who in (REFERENCE, "ours")]
        lines.append(f"| {what} | {' | '.join(numbers)} |")
    apart = max(
        abs(found[seed, "ours"][metric] / value - 1.0)
        for seed in seeds
        for metric, value in found[seed, REFERENCE].items()
    )
    return [*lines, "", f"Errors differ by a part of {apart:.1g} at most."]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--reference", required=True, help="its nequip-train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=Path("acac-runs"))
    options, overrides = parser.parse_known_args()
    ours = [sys.executable, "-c", "from nequip_train.command import main; raise SystemExit(main())"]
    commands = {REFERENCE: [options.reference], "ours": ours}
    folder, data = options.folder.resolve(), options.data.resolve()
    runs = {seed: side_by_side(commands, folder, data, seed, overrides) for seed in options.seeds}
    print("\n".join(table(runs)))


if __name__ == "__main__":
    main()
