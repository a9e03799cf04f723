"""Mistakes on the command line: found before anything slow begins, one line each."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nequip_core.archive.reader import PackageReader
from nequip_package.command import main

GATE = "package/nequip_model/nn/gate.py"
RUN = """
import json, sys
from nequip_package.command import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(json.dumps({"code": code, "torch": "torch" in sys.modules}))
"""
# Files that grow beyond 64 kB cannot be written: what a full disk does, without one.
RUN_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
from nequip_package.command import main
sys.exit(main(sys.argv[1:]))
"""


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(package, tmp_path / "copy.nequip.zip"))


@pytest.mark.parametrize(
    ("subcommand", "options"),
    [
        ("build", []),
        ("modify", ["--modifier", "disable_ForceStressOutput"]),
        ("update", ["--replace", GATE]),
        ("upgrade", []),
        ("convert", []),
        ("card", ["--set", "license=MIT"]),
    ],
)
def test_the_input_is_never_the_output(subcommand: str, options: list[str], copy: Path) -> None:
    before = copy.read_bytes()
    result = run(RUN, subcommand, copy, copy, *options)
    assert json.loads(result.stdout) == {"code": 1, "torch": False}
    assert re.fullmatch(r"error: input and output must differ, both are .*\n", result.stderr)
    assert copy.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "{package}", "{out}", "--mode", "nope"], "'nope'"),
        (["upgrade", "{package}", "{out}"], "nothing to upgrade"),
        (["convert", "{package}", "{out}"], "of this project already.*nequip-package build"),
        (["convert", "{checkpoint}", "{out}"], "of this project already.*nequip-package build"),
        (["convert", "{package}", "{out}", "--converter", "nope"], ""),
        (["update", "{package}", "{out}", "--replace", GATE, "gone.py"], "no replacement at"),
        (["update", "{package}", "{out}", "--replace", "package/nope.txt"], "is no source in"),
        (["build", "{as_checkpoint}", "{out}"], "is a package, not a checkpoint: rename it"),
        (["build", "{as_package}", "{out}"], "looks like a checkpoint; rename it"),
        (["convert", "{as_package}", "{out}"], "looks like a checkpoint; rename it"),
        (["diff", "{package}", GATE, "gone.py"], "no file at 'gone.py'"),
    ],
)
def test_mistakes_are_found_before_torch_is_imported(
    arguments: list[str], message: str, package: Path, checkpoint: Path, tmp_path: Path
) -> None:
    names = {
        "package": package,
        "checkpoint": checkpoint,
        "out": tmp_path / "out.nequip.zip",
        "as_checkpoint": shutil.copy(package, tmp_path / "a.ckpt"),
        "as_package": shutil.copy(checkpoint, tmp_path / "a.nequip.zip"),
    }
    result = run(RUN, *(word.format(**names) for word in arguments))
    assert json.loads(result.stdout) == {"code": 1, "torch": False}
    assert re.fullmatch(f"error: .*{message}.*\n", result.stderr)
    assert not names["out"].exists()


def test_a_checkpoint_of_nequip_is_sent_to_convert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = Path(__file__).parents[3] / "tests/golden/reference/0.19.1/basic.ckpt"
    assert main(["build", str(reference), str(tmp_path / "b.nequip.zip")]) == 1
    error = capsys.readouterr().err.partition("error: ")[2]
    assert "was written by nequip 0.19.1" in error and "nequip-package convert" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are of Unix")
@pytest.mark.parametrize("kind", ["checkpoint", "package"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    kind: str, checkpoint: Path, package: Path, tmp_path: Path
) -> None:
    source = checkpoint if kind == "checkpoint" else package
    result = run(RUN_LIMITED, "build", source, tmp_path / "out.nequip.zip")
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last == f"error: cannot write '{tmp_path / 'out.nequip.zip'}': File too large"
    assert "Traceback" not in result.stderr and "terminate" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device is of Linux")
def test_output_that_cannot_be_written_is_one_line(package: Path) -> None:
    words = [sys.executable, "-c", RUN.replace("print(json", "(json"), "info", "--yaml"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*words, str(package)], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert result.stderr == "error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize(
    ("subcommand", "words"),
    [
        ("modify", ["--modifier", "disable_ForceStressOutput"]),
        ("modify", ["--modifier", "modify_PerTypeScaleShift", "shifts={Cu: -1.0}"]),
        ("update", ["--replace", GATE]),
    ],
)
def test_options_may_stand_before_the_packages(
    subcommand: str, words: list[str], package: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.nequip.zip", tmp_path / "second.nequip.zip"
    assert main([subcommand, *words, str(package), str(first)]) == 0
    assert main([subcommand, str(package), str(second), *words]) == 0
    assert PackageReader(first).identity == PackageReader(second).identity


@pytest.mark.parametrize("subcommand", ["modify", "update"])
def test_usage_names_the_packages_first(
    subcommand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([subcommand, "-h"])
    assert stop.value.code == 0
    start = f"usage: nequip-package {subcommand} [-h] input_path output_path --"
    assert capsys.readouterr().out.startswith(start)


def test_a_misspelt_command_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["biuld", "a.ckpt", "a.nequip.zip"])
    assert stop.value.code == 2
    assert "no command 'biuld'; did you mean 'build'?" in capsys.readouterr().err


def test_messages_name_no_scratch_file(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = tmp_path / "gate.py"
    local.write_text("raise RuntimeError('broken')\n")
    target = tmp_path / "out.nequip.zip"
    assert main(["update", str(package), str(target), "--replace", GATE, str(local)]) == 1
    error = capsys.readouterr().err.partition("error: ")[2]
    assert "nothing was written" in error and "broken" in error
    assert f".{target.name}." not in error
    assert not target.exists()


@pytest.mark.parametrize("value", ["x: ${nope}\n", "data: {a: [1, '${b}']}\n"])
def test_a_config_with_interpolations_is_refused(
    value: str, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = tmp_path / "config.yaml"
    local.write_text(value)
    target = tmp_path / "out.nequip.zip"
    words = ["--replace", "package/model/config.yaml", str(local)]
    assert main(["update", str(package), str(target), *words]) == 1
    assert "has the interpolation '${" in capsys.readouterr().err
    assert not target.exists()


def test_what_changes_nothing_is_noted(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = tmp_path / "gate.py"
    local.write_bytes(PackageReader(package).read_bytes(GATE.removeprefix("package/")))
    target = tmp_path / "out.nequip.zip"
    assert main(["update", str(package), str(target), "--replace", GATE, str(local)]) == 0
    assert "note: 'nequip_model/nn/gate.py' is as it was\n" in capsys.readouterr().err
    license_text = ["--set", "license=MIT"]
    assert main(["card", str(package), str(target), *license_text]) == 0
    assert "as it was" not in capsys.readouterr().err
    again = tmp_path / "again.nequip.zip"
    assert main(["card", str(target), str(again), *license_text]) == 0
    assert "note: the card is as it was\n" in capsys.readouterr().err


def test_steps_are_reported_from_the_start(package: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.nequip.zip"
    result = run(RUN, "modify", package, target, "--modifier", "disable_ForceStressOutput")
    assert json.loads(result.stdout)["code"] == 0
    first = re.match(r"\[ *([0-9.]+) s\] loading ", result.stderr)
    assert first is not None and float(first[1]) < 1.0


def test_a_package_of_nequip_is_no_own_one(
    reference_package: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = reference_package("0.19.1")
    assert main(["convert", str(source), str(tmp_path / "own.nequip.zip")]) == 0
    capsys.readouterr()
    words = ["convert", str(tmp_path / "own.nequip.zip"), str(tmp_path / "twice.nequip.zip")]
    assert main(words) == 1
    assert "of this project already" in capsys.readouterr().err
