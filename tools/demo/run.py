"""The whole line, from no data at all to molecular dynamics with a compiled model.

Run by `nox -s demo`; writes everything into ``demo-output/`` of the repository (or the folder given
as the only argument) and empties that folder first, if a demo made it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MARKER = ".made-by-the-nequip-demo"

INTRODUCTION = """
A NequIP model of Cu-Au crystals of 16 and 32 atoms (`config.yaml`), trained on frames that the EMT
potential of ASE labelled (`data/`). Errors of the compiled model on the test frames, see
`parity.png`; the spread is the standard deviation of the reference values:
"""
EXPLANATION = """
The drift is the slope of a straight line through the total energy, over the whole run, see
`energy_drift.png`. The dynamics start from an ideal crystal with twice the temperature, half of
which becomes potential energy. Learning curve: `learning_curve.png`.
"""


def prepare_folder(folder: Path) -> None:
    """Make `folder` empty.

    Raises:
        FileExistsError: something that is not a demo's output is there.
    """
    if folder.exists() and not (folder / MARKER).exists():
        raise FileExistsError(f"'{folder}' exists and was not made by the demo; move it away")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


@contextmanager
def step(title: str, durations: dict[str, float]) -> Iterator[None]:
    """Announce a step and note how long it took."""
    print(f"\n=== {title}", flush=True)
    start = time.perf_counter()
    yield
    durations[title] = time.perf_counter() - start


def command_runner(folder: Path) -> Callable[..., str]:
    """Return a function that runs one of the installed commands in `folder`."""

    def run(name: str, *arguments: str, capture: bool = False) -> str:
        print(f"$ {name} {' '.join(arguments)}", flush=True)
        script = Path(sys.executable).parent / name
        result = subprocess.run(
            [str(script), *arguments], cwd=folder, text=True, check=True, capture_output=capture
        )
        return result.stdout or ""

    return run


def make_model(folder: Path, durations: dict[str, float]) -> None:
    """Make data, then a checkpoint, a package and a compiled model in `folder`."""
    from data import write_data

    run = command_runner(folder)
    with step("data: label frames of a Cu-Au alloy with EMT", durations):
        print(write_data(folder / "data"))
    with step("train and test", durations):
        shutil.copy(HERE / "config.yaml", folder)
        run("nequip-train", "config.yaml")
    with step("package", durations):
        run("nequip-package", "build", "training/best.ckpt", "model.nequip.zip")
        info = run("nequip-package", "info", "model.nequip.zip", capture=True)
        (folder / "info.txt").write_text(info)
        print(info)
    with step("compile", durations):
        run(
            *("nequip-compile", "model.nequip.zip", "model.nequip.pt2"),
            *("--mode", "aotinductor", "--device", "cpu", "--target", "ase"),
        )


def use_model(folder: Path, durations: dict[str, float]) -> str:
    """Test and run the compiled model; return the summary."""
    from dynamics import PICOSECONDS, TEMPERATURE, check_drift, run_nve, write_trajectory
    from errors import compare, markdown_table, write_csv
    from figures import plot_drift, plot_learning_curve, plot_parity

    from nequip_integrations.ase import NequIPCalculator

    calculator = NequIPCalculator.from_compiled_model(folder / "model.nequip.pt2", device="cpu")
    with step("errors of the compiled model on the test frames", durations):
        comparisons = compare(folder / "data" / "test.xyz", calculator)
        write_csv(comparisons, folder / "test_errors.csv")
        (folder / "test_errors.md").write_text(markdown_table(comparisons) + "\n")
        print(markdown_table(comparisons))
        plot_parity(comparisons, folder / "parity.png")
        metrics = folder / "training" / "metrics" / "version_0" / "metrics.csv"
        plot_learning_curve(metrics, folder / "learning_curve.png")
    with step(f"molecular dynamics: {PICOSECONDS} ps of NVE from {TEMPERATURE:.0f} K", durations):
        trajectory = run_nve(calculator)
        write_trajectory(trajectory, folder / "dynamics.csv")
        plot_drift(trajectory, folder / "energy_drift.png")
        energy = (
            f"NVE, {PICOSECONDS} ps: drift {trajectory.drift:+.4f} meV/atom, largest deviation "
            f"{trajectory.largest_deviation:.4f} meV/atom, "
            f"mean temperature {trajectory.temperature.mean():.0f} K"
        )
        print(energy)
        check_drift(trajectory)
    return f"{INTRODUCTION}\n{markdown_table(comparisons)}\n\n{energy}\n{EXPLANATION}"


def main() -> int:
    """Run the demo and return the exit code."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "demo-output").resolve()
    prepare_folder(folder)
    durations: dict[str, float] = {}
    make_model(folder, durations)
    summary = use_model(folder, durations)
    times = "\n".join(f"- {title}: {seconds:.0f} s" for title, seconds in durations.items())
    total = sum(durations.values())
    text = f"# Demo\n\n{summary}\n{times}\n- total: {total:.0f} s\n"
    (folder / "summary.md").write_text(text)
    print(f"\n{text}\nEverything is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
