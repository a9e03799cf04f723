"""`--help` of every command answers without torch, within half a second of CPU."""

from __future__ import annotations

import importlib.metadata
import json
import resource
import subprocess
import sys

import pytest

CPU_SECONDS = 0.5
HEAVY = ("ase", "e3nn", "hydra", "lightning", "numpy", "torch")
LAYERS = ("nequip-train", "nequip-package", "nequip-compile")
# A command, and the arguments that must answer at once.
CALLS = [
    ("nequip-train", ["--help"]),
    ("nequip-package", ["--help"]),
    ("nequip-package", ["build", "--help"]),
    ("nequip-package", ["info", "--help"]),
    ("nequip-package", ["list", "--help"]),
    ("nequip-compile", ["--help"]),
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
    assert scripts == {name for name, _ in CALLS}


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=lambda value: "".join(value))
def test_help_answers_without_torch(name: str, arguments: list[str]) -> None:
    code = RUN_COMMAND.replace("HEAVY", repr(HEAVY))
    before = children_cpu()
    result = subprocess.run(
        [sys.executable, "-c", code, name, *arguments], capture_output=True, text=True, check=True
    )
    spent = children_cpu() - before
    answer = json.loads(result.stdout)
    assert answer["code"] == 0
    assert name in answer["text"]
    assert answer["loaded"] == []
    assert spent < CPU_SECONDS
