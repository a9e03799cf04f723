"""The tutorial on training is done as a newcomer does it: its files, its commands, in order."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from ase.io import read

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tutorial() -> ModuleType:
    """The tool that does what the page says."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import tutorial
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return tutorial


@pytest.fixture(scope="module")
def done(tutorial: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The folder in which everything but the compilation was done, and what commands printed."""
    pytest.importorskip("matplotlib", reason="the page draws")
    folder = tmp_path_factory.mktemp("tutorial")
    return folder, {step.text: printed for step, printed in tutorial.run(folder) if not step.name}


def test_every_command_ends_and_prints_as_the_page_says(done: tuple[Path, dict]) -> None:
    folder, printed = done
    assert len(printed) >= 10
    assert len(read(folder / "both.xyz", ":")) == 180
    assert not [text for text in printed.values() if "litlogger" in text or "Traceback" in text]


def test_the_interrupted_training_was_continued_and_finished(done: tuple[Path, dict]) -> None:
    record = json.loads((done[0] / "runs/first/run.json").read_text())
    assert record["status"] == "finished"
    assert len(record["sessions"]) == 2
    epochs = [
        row["epoch"]
        for row in map(json.loads, (done[0] / "runs/first/metrics.jsonl").read_text().splitlines())
        if "val0_epoch/weighted_sum" in row
    ]
    assert epochs == list(range(30))


@pytest.mark.parametrize("run", ["first", "tuned"])
def test_the_models_of_the_page_have_learned(done: tuple[Path, dict], run: str) -> None:
    with (done[0] / f"runs/{run}/errors.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["field"] for row in rows} == {"total_energy", "forces", "stress"}
    for row in rows:
        assert float(row["mae"]) < 0.15 * float(row["spread"]), row
    assert (done[0] / f"runs/{run}/report.html").stat().st_size > 50_000


def judged(printed: dict, name: str) -> tuple[float, float, float]:
    """Return error at the largest volume, bulk modulus, and drift, as `judge.py` prints them."""
    (text,) = [text for command, text in printed.items() if f"judge.py {name}" in command]
    number = r"(-?[\d.]+)"
    error = re.search(rf"at 18.5 {number} meV", text)
    modulus = re.search(rf"model: .* modulus {number} GPa", text)
    drift = re.search(rf"drift {number} meV", text)
    assert error and modulus and drift
    return abs(float(error[1])), float(modulus[1]), abs(float(drift[1]))


def test_the_second_training_mends_what_judging_has_found(done: tuple[Path, dict]) -> None:
    first, tuned = judged(done[1], "first.nequip.zip"), judged(done[1], "runs/tuned/best.ckpt")
    assert first[0] > 20.0
    assert tuned[0] < 0.6 * first[0]
    assert abs(tuned[1] - 133.0) < 15.0
    assert max(first[2], tuned[2]) < 0.1


def test_every_figure_of_the_page_is_small_and_was_written_by_its_commands(
    tutorial: ModuleType, done: tuple[Path, dict]
) -> None:
    pictures = tutorial.pictures()
    assert len(pictures) == 5
    for name, source in pictures.items():
        assert (done[0] / source).read_bytes().startswith(b"\x89PNG")
        assert 1000 < (tutorial.FIGURES / f"{name}.png").stat().st_size < 100_000


@pytest.mark.slow
def test_the_model_of_the_page_compiles(tutorial: ModuleType, done: tuple[Path, dict]) -> None:
    commands = [step for step in tutorial.steps(tutorial.PAGE.read_text()) if step.optional]
    assert len(commands) == 2
    for step in commands:
        tutorial.command(done[0], step)
    assert (done[0] / "alloy.nequip.pt2").exists()


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        (["a 1.5 b"], "a -2e-3 b", None),
        (["a 1 b", "c"], "a 1 b\nnoise\n  c", None),
        (["c", "a 1 b"], "a 1 b\nc", "a 1 b"),
        (["a … b"], "a whatever b", None),
        (["words 1"], "other words 1", "words 1"),
        (["of 2 words"], "of two words", "of 2 words"),
    ],
)
def test_only_numbers_may_differ_from_what_the_page_shows(
    tutorial: ModuleType, shown: list[str], printed: str, missing: str | None
) -> None:
    assert tutorial.absent(shown, printed) == missing
