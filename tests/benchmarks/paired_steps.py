"""Steps of several models one after another, again and again, for ratios on a busy machine.

Each model has a process of its own with one thread, and only one of them computes at a time; the
ratios are medians over the rounds of ratios within a round::

    OMP_NUM_THREADS=1 python tests/benchmarks/paired_steps.py --reference /ref/bin/python \
        --ours "ours with kernels" "ours with kernels and tables" model.nequip.pt2

``--reference`` names a Python that has nequip 0.19.1, nequip-core and nequip-model.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

CHILD = str(Path(__file__).with_name("step_process.py"))
REFERENCE = "nequip 0.19.1"


class Steps:
    """The process of one model."""

    def __init__(self, python, what):
        self.process = subprocess.Popen(
            [python, "-W", "ignore", CHILD, what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"the process of '{what}' did not start")

    def take(self, system):
        """Wall and processor time of a step, in ms."""
        self.process.stdin.write(system + "\n")
        self.process.stdin.flush()
        return [float(word) for word in self.process.stdout.readline().split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", required=True)
    parser.add_argument("--ours", nargs="+", required=True)
    parser.add_argument("--systems", nargs="+", default=["Cu 24", "Cu 108", "Cu 256"])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    steps = {REFERENCE: Steps(given.reference, REFERENCE)}
    steps.update({what: Steps(sys.executable, what) for what in given.ours})
    print("| system | what | wall | processor | ratio of wall | of processor |")
    print("|---|---|---:|---:|---:|---:|")
    for system in given.systems:
        times = {what: [] for what in steps}
        for _ in range(given.rounds):
            for what, one in steps.items():
                times[what].append(one.take(system))
        for what, taken in times.items():
            walls, processors = zip(*taken, strict=True)
            ratios = [
                statistics.median(a[n] / b[n] for a, b in zip(times[REFERENCE], taken, strict=True))
                for n in (0, 1)
            ]
            middle = [f"{statistics.median(one):.3g} ms" for one in (walls, processors)]
            words = [system, Path(what).name, *middle, *(f"{ratio:.3g}" for ratio in ratios)]
            print("| " + " | ".join(words) + " |", flush=True)


if __name__ == "__main__":
    main()
