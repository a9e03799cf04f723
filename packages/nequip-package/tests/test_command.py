"""The command: what it prints, its exit codes, and that mistakes leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nequip_core.archive.loading import load_package
from nequip_core.saved_model import SavedModel
from nequip_package import __version__
from nequip_package.command import main

RUN_AND_LIST_HEAVY = """
import json, sys
from nequip_package.command import main
code = main(sys.argv[1:])
heavy = sorted({"torch", "numpy", "ase", "e3nn"} & set(sys.modules))
print(json.dumps({"code": code, "heavy": heavy}))
"""


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_build_makes_a_package_of_a_checkpoint(
    saved: SavedModel, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "a.nequip.zip"
    assert main(["build", str(checkpoint), str(target)]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "loading" in printed.err and f"wrote {target}" in printed.err
    assert listing(tmp_path) == [str(target.parent), str(target)]
    packaged = load_package(target, trust_code=True)
    assert packaged.config == saved.config
    expected = saved.models.state_dict()
    found = packaged.models.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("subcommand", ["info", "list"])
def test_looking_at_a_package_does_not_import_torch(package: Path, subcommand: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST_HEAVY, subcommand, str(package)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout.splitlines()[-1]) == {"code": 0, "heavy": []}


def test_without_subcommand_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: nequip-package" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["unpack"], ["build", "a.ckpt"], ["info", "a", "--xml"]])
def test_wrong_usage_exits_with_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: nequip-package" in capsys.readouterr().err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"nequip-package {__version__}\n"


@pytest.mark.parametrize("subcommand", ["info", "list"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.nequip.zip", None, "the file does not exist"),
        ("a.zip", "text", "must end in .nequip.zip"),
        ("a.nequip.zip", "text", "truncated or not a package"),
        ("half.nequip.zip", "half", "truncated or not a package"),
        ("folder.nequip.zip", "folder", "is a folder"),
    ],
)
def test_unreadable_package_is_one_line_and_code_one(
    subcommand: str,
    name: str,
    content: str | None,
    message: str,
    package: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    if content == "half":
        whole = package.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    assert main([subcommand, str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and message in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("gone.ckpt", "a.nequip.zip", "the file does not exist"),
        ("good.pt", "a.nequip.zip", "must end in .ckpt"),
        ("good.nequip.zip", "a.nequip.zip", "looks like a checkpoint; rename it"),
        ("good.ckpt", "a.zip", "must end in .nequip.zip"),
        ("good.ckpt", ".nequip.zip", "must end in .nequip.zip"),
        ("good.ckpt", "folder.nequip.zip", "a folder is in its place"),
        ("text.ckpt", "a.nequip.zip", "is not a checkpoint"),
        ("empty.ckpt", "a.nequip.zip", "is not a checkpoint"),
        ("half.ckpt", "a.nequip.zip", "or a damaged one"),
        ("tensor.ckpt", "a.nequip.zip", "is not a training checkpoint"),
        ("foreign.ckpt", "a.nequip.zip", "is not a checkpoint of nequip-train"),
    ],
)
def test_mistake_in_build_is_one_line_and_leaves_nothing(
    source: str,
    target: str,
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = checkpoint.read_bytes()
    for name in ("good.ckpt", "good.pt", "good.nequip.zip"):
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "folder.nequip.zip").mkdir()
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save(torch.ones(2), tmp_path / "tensor.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {}}, tmp_path / "foreign.ckpt")
    before = listing(tmp_path)
    assert main(["build", str(tmp_path / source), str(tmp_path / target)]) == 1
    printed = capsys.readouterr()
    error = printed.err[printed.err.index("error: ") :]
    assert message in error
    assert error.count("\n") == 1
    assert listing(tmp_path) == before


def test_folder_that_cannot_be_written_is_an_error(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["build", str(checkpoint), str(tmp_path / "file" / "a.nequip.zip")]) == 1
    assert "cannot write" in capsys.readouterr().err
