"""What only tells something (`--help`, `info`, `list`) needs no torch and half a second of CPU."""

from __future__ import annotations

import importlib.metadata
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

CPU_SECONDS = 0.5
HEAVY = ("ase", "e3nn", "hydra", "lightning", "numpy", "torch")
LAYERS = ("nequip-core", "nequip-train", "nequip-package", "nequip-compile", "nequip-integrations")
(PACKAGE,) = (Path(__file__).parents[1] / "golden").glob("format2-nequip-0.1.0/*.nequip.zip")
# A command, the arguments that must answer at once, and what the answer contains.
CALLS = [
    ("nequip-train", ["--help"], "nequip-train"),
    ("nequip-train", ["check", "--help"], "nequip-train check"),
    ("nequip-train", ["schema", "--help"], "nequip-train schema"),
    ("nequip-package", ["--help"], "nequip-package"),
    ("nequip-package", ["build", "--help"], "nequip-package build"),
    ("nequip-package", ["info", str(PACKAGE)], "atom_types"),
    ("nequip-package", ["info", "--yaml", str(PACKAGE)], "atom_types"),
    ("nequip-package", ["list", str(PACKAGE)], "eager_model.pkl"),
    ("nequip-compile", ["--help"], "nequip-compile"),
    ("nequip-doctor", ["--help"], "nequip-doctor"),
    ("nequip-benchmark", ["--help"], "nequip-benchmark"),
    ("nequip-evaluate", ["--help"], "nequip-evaluate"),
    ("nequip-md", ["--help"], "nequip-md"),
    ("nequip-lammps", ["--help"], "nequip-lammps"),
    ("nequip-lammps", ["run", "--help"], "nequip-lammps run"),
    ("nequip-ipi", ["--help"], "nequip-ipi"),
    ("nequip-ipi", ["--where"], "ipi.py"),
]
RUN_COMMAND = """
import contextlib, importlib.metadata, io, json, sys
name = sys.argv[1]
(entry,) = importlib.metadata.entry_points(group="console_scripts", name=name)
sys.argv = sys.argv[1:]
printed = io.StringIO()
try:
    with contextlib.redirect_stdout(printed):
        code = entry.load()()
except SystemExit as stop:
    code = stop.code
loaded = [module for module in HEAVY if module in sys.modules]
print(json.dumps({"code": code or 0, "text": printed.getvalue(), "loaded": loaded}))
"""


def children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_every_command_is_called_here() -> None:
    scripts = {
        entry.name
        for name in LAYERS
        for entry in importlib.metadata.distribution(name).entry_points
        if entry.group == "console_scripts"
    }
    assert scripts == {name for name, *_ in CALLS}


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"), CALLS, ids=[f"{name} {words[0]}" for name, words, _ in CALLS]
)
def test_answer_needs_no_torch(name: str, arguments: list[str], wanted: str) -> None:
    code = RUN_COMMAND.replace("HEAVY", repr(HEAVY))
    before = children_cpu()
    result = subprocess.run(
        [sys.executable, "-c", code, name, *arguments], capture_output=True, text=True, check=True
    )
    spent = children_cpu() - before
    answer = json.loads(result.stdout)
    assert answer["code"] == 0
    assert wanted in answer["text"]
    assert answer["loaded"] == []
    assert spent < CPU_SECONDS
