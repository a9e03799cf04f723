"""A user's mistake gives one clear line, exit code 1 or 2, and nothing half-written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden" / "format2-nequip-0.1.0" / "model.nequip.zip"
CONFIG = TESTS / "e2e" / "config.yaml"
TARGET = ("--target", "ase")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of files each of which is wrong in one way."""
    (tmp_path / "cut.nequip.zip").write_bytes(GOLDEN.read_bytes()[:5000])
    (tmp_path / "text.ckpt").write_text("not a checkpoint\n")
    config = CONFIG.read_text()
    (tmp_path / "config.yaml").write_text(config)
    (tmp_path / "key.yaml").write_text(config.replace("max_epochs:", "max_epoch:"))
    frames = []
    for symbol in ("Cu", "Ag"):
        atoms = bulk(symbol, cubic=True)
        atoms.rattle(0.05, seed=0)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        results["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames += [atoms] * 6
    write(tmp_path / "frames.xyz", frames)
    return tmp_path


CASES = {
    "train: missing config": (["train", "gone.yaml"], 1, "the file does not exist"),
    "train: wrong extension": (["train", "text.ckpt"], 1, "must end in .yaml"),
    "train: unknown key": (["train", "key.yaml"], 1, "did you mean 'max_epochs'?"),
    "train: unknown species": (["train", "config.yaml"], 1, "Ag"),
    "package: missing file": (["package", "info", "gone.nequip.zip"], 1, "does not exist"),
    "package: wrong extension": (["package", "info", "text.ckpt"], 1, "must end in .nequip.zip"),
    "package: truncated": (["package", "list", "cut.nequip.zip"], 1, "is truncated"),
    "package: no checkpoint": (
        ["package", "build", "text.ckpt", "out.nequip.zip"],
        *(1, "is not a checkpoint"),
    ),
    "package: no command": (["package"], 2, "usage: nequip-package"),
    "compile: missing file": (
        ["compile", "gone.nequip.zip", "out.nequip.pt2", *TARGET],
        *(1, "does not exist"),
    ),
    "compile: wrong extension": (
        ["compile", "cut.nequip.zip", "out.zip", *TARGET],
        *(1, "must end in .nequip.pt2"),
    ),
    "compile: truncated": (
        ["compile", "cut.nequip.zip", "out.nequip.pt2", *TARGET],
        *(1, "is truncated"),
    ),
    "compile: no checkpoint": (
        ["compile", "text.ckpt", "out.nequip.pt2", *TARGET],
        *(1, "is not a checkpoint"),
    ),
    "compile: unknown target": (
        ["compile", "cut.nequip.zip", "out.nequip.pt2", "--target", "asee"],
        *(2, "did you mean 'ase'?"),
    ),
}


@pytest.mark.parametrize(("words", "code", "message"), CASES.values(), ids=CASES)
def test_mistake_is_one_clear_line(folder: Path, words: list[str], code: int, message: str) -> None:
    before = {path.name for path in folder.iterdir()}
    script = Path(sys.executable).parent / f"nequip-{words[0]}"
    result = subprocess.run(
        [str(script), *words[1:]], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert message in result.stderr
    assert code == 2 or result.stderr.splitlines()[-1].startswith("error: ")
    # Hydra's own folder, with the config and the log of the attempt, is meant to stay.
    assert {path.name for path in folder.iterdir()} - before <= {"training"}
