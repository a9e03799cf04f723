"""Looking at a package, and rebuilding it, run nothing that is in the file.

The packages of these tests are traps: their pickles call a function when they are unpickled, and
their sources do something when they are imported. An audit hook of the interpreter watches.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nequip_core.archive.reader import PackageReader
from nequip_package.replaced_members import write_with_members

GOLDEN = Path(__file__).parents[3] / "tests" / "golden"
MARK = "trap_7f3a"

WATCH = """
import ast, json, sys

MARK = %r
seen = []

def holds_mark(code):
    if isinstance(code, str):
        return MARK in code
    if isinstance(code, bytes):
        return MARK.encode() in code
    return any(holds_mark(part) for part in getattr(code, "co_consts", ()))

def makes_a_tree_only(frame):
    flags = frame.f_locals.get("flags", 0)
    is_parse = frame.f_code.co_filename == ast.__file__ and frame.f_code.co_name == "parse"
    return is_parse and flags & ast.PyCF_ONLY_AST

def hook(event, arguments):
    if event == "pickle.find_class":
        seen.append([event, ".".join(arguments)])
    elif event == "compile" and holds_mark(arguments[0]):
        if not makes_a_tree_only(sys._getframe(1)):
            seen.append([event, str(arguments[1])])
    elif event == "exec" and holds_mark(arguments[0]):
        seen.append([event, arguments[0].co_filename])
    elif event == "import" and arguments[0].startswith(("<torch_package", "trap_module")):
        seen.append([event, arguments[0]])
    elif event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "marshal.loads"):
        if MARK in repr(arguments) or event == "os.system":
            seen.append([event, repr(arguments)])

sys.addaudithook(hook)
"""
RUN_COMMAND = """
from nequip_package.command import main
code = main(sys.argv[1:])
print(json.dumps({"code": code, "seen": seen, "modules": sorted(sys.modules)}))
"""
LOAD = """
from nequip_core.archive.loading import load_package
trust = {"rebuild": None, "snapshot": True}[sys.argv[2]]
try:
    loaded = load_package(sys.argv[1], load=sys.argv[2], trust_code=trust)
    code = len(loaded.models)
except Exception as error:
    code = repr(error)
print(json.dumps({"code": code, "seen": seen, "modules": sorted(sys.modules)}))
"""

PRINT = "print(json.dumps({'seen': seen}))"


class Trap:
    """Unpickles to a call that writes a file."""

    def __init__(self, written: Path) -> None:
        self.written = written

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo {MARK} > {self.written}",)


def trapped(content: bytes, name: str, written: Path) -> bytes:
    """Return the member `name` as a trap, or as it is."""
    if name.endswith(".pkl"):
        return pickle.dumps(Trap(written), protocol=3)
    if name.endswith(".py"):
        line = f"\nopen({str(written)!r}, 'w').write({MARK!r})\n"
        return content + line.encode()
    return content


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Return the file that a trap writes."""
    return tmp_path / "written-by-the-trap"


@pytest.fixture
def format_3(package: Path, tmp_path: Path, written: Path) -> Path:
    reader = PackageReader(package)
    names = [name.partition("/")[2] for _, name in reader.members()]
    replaced = {
        name: trapped(reader.read_bytes(name), name, written)
        for name in names
        if name.endswith((".py", ".pkl"))
    }
    replaced["trap_module.py"] = trapped(b"", "trap_module.py", written)
    return write_with_members(reader, tmp_path / "three.nequip.zip", replaced).path


@pytest.fixture
def format_2(tmp_path: Path, written: Path) -> Path:
    path = tmp_path / "two.nequip.zip"
    with (
        zipfile.ZipFile(GOLDEN / "format2-nequip-0.1.0" / "model.nequip.zip") as source,
        zipfile.ZipFile(path, "w") as target,
    ):
        for name in source.namelist():
            target.writestr(name, trapped(source.read(name), name, written))
    return path


def watched(script: str, *arguments: str) -> dict[str, Any]:
    """Return what a script printed last: its result, and what the audit hook saw."""
    result = subprocess.run(
        [sys.executable, "-c", WATCH % MARK + script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NEQUIP_TRUST_CODE": ""},
    )
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments",
    [
        ["info"],
        ["info", "--json"],
        ["info", "--modifiers", "--yaml"],
        ["list"],
        ["list", "--tree"],
        ["audit"],
        ["audit", "--json"],
        ["diff"],
        ["diff", "--patch"],
        ["verify", "--static"],
        ["card"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("form", ["format_2", "format_3"])
def test_commands_that_look_run_nothing_of_the_package(
    form: str, arguments: list[str], written: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(form)
    found = watched(RUN_COMMAND, arguments[0], str(path), *arguments[1:])
    assert found["code"] == 0
    assert found["seen"] == []
    assert not {"torch", "e3nn", "nequip_model", "trap_module"} & set(found["modules"])
    assert not written.exists()


def test_comparing_two_packages_runs_nothing_of_them(
    format_2: Path, format_3: Path, package: Path, written: Path
) -> None:
    for paths in ((package, format_3), (format_3, package)):
        found = watched(RUN_COMMAND, "diff", *map(str, paths))
        assert (found["code"], found["seen"]) == (0, [])
        assert "torch" not in found["modules"]
    # The weights of format 2 are looked for in its pickle, which is a trap and holds none.
    found = watched(RUN_COMMAND, "diff", str(format_2), str(package))
    assert (found["code"], found["seen"]) == (0, [])
    assert not written.exists()


def test_a_rebuild_runs_nothing_of_the_package(format_3: Path, written: Path) -> None:
    found = watched(LOAD, str(format_3), "rebuild")
    assert found["code"] == 1  # one model
    assert found["seen"] == []
    assert not written.exists()


def test_the_hook_sees_what_a_snapshot_with_consent_runs(
    package: Path, tmp_path: Path, written: Path
) -> None:
    reader = PackageReader(package)
    sources = {
        name: trapped(reader.read_bytes(name), name, written) for name in reader.sources().values()
    }
    path = write_with_members(reader, tmp_path / "sources.nequip.zip", sources).path
    found = watched(LOAD, str(path), "snapshot")
    assert {"compile", "exec"} <= {event for event, _ in found["seen"]}
    assert written.read_text() == MARK


def test_the_hook_sees_unpickling(tmp_path: Path, written: Path) -> None:
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap(written), protocol=3))
    script = "import pickle\npickle.load(open(sys.argv[1], 'rb'))\n"
    found = watched(script + PRINT, str(tmp_path / "trap.pkl"))
    assert ["pickle.find_class", f"{os.name}.system"] in found["seen"]
    assert written.read_text().strip() == MARK


def test_the_hook_sees_that_a_source_is_run(tmp_path: Path) -> None:
    (tmp_path / "trap_module.py").write_text(f"WORD = {MARK!r}\n")
    script = "sys.path.insert(0, sys.argv[1])\nimport trap_module\n"
    found = watched(script + PRINT, str(tmp_path))
    assert {event for event, _ in found["seen"]} == {"compile", "exec", "import"}
    assert watched(f"ast.parse({MARK!r})\n{PRINT}")["seen"] == []
