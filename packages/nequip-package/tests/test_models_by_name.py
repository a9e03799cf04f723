"""Commands that take the name of a model, ``push``, ``cache`` and ``trust``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nequip_core.archive.loading import ModelTypeNamesFromPackage, load_example_data, load_package
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import TrustError
from nequip_core.saved_model import load_saved_model, local_file
from nequip_package.command import main

# Code of the packages, which is not ours to change.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

NAME = "nequip.net:our-group/Alloy:1.0"
OLDER = "nequip.net:our-group/Older:1"
GATE = "package/nequip_model/nn/gate.py"
FORMAT2 = Path(__file__).parents[3] / "tests/golden/format2-nequip-0.1.0/model.nequip.zip"


@pytest.fixture(autouse=True)
def own_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_pushed_package_is_fetched_by_name_and_rebuilt(address: str, package: Path) -> None:
    assert local_file(NAME).read_bytes() == package.read_bytes()
    assert load_saved_model(NAME, trust_code=False).loaded_by == "rebuild"
    assert load_package(NAME, trust_code=False).loaded_by == "rebuild"
    assert ModelTypeNamesFromPackage(NAME) == ["Cu", "Au"]
    assert load_example_data(NAME)["pos"].shape[1] == 3


READING = {
    "info": ["info", NAME],
    "info of modifiers": ["info", "--modifiers", NAME],
    "list": ["list", NAME],
    "diff with what is installed": ["diff", NAME],
    "diff of two": ["diff", NAME, NAME],
    "diff of one file": ["diff", NAME, GATE],
    "diff of one file of two": ["diff", NAME, NAME, GATE],
    "audit": ["audit", NAME],
    "verify": ["verify", NAME],
    "card": ["card", NAME],
}


@pytest.mark.parametrize("command", READING.values(), ids=READING)
def test_commands_that_read_take_a_name(
    address: str, own_cache: Path, command: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert main(command) == 0
    assert len(list((own_cache / "packages").iterdir())) == 1
    if command[0] in ("info", "verify", "audit"):
        assert capsys.readouterr().out.startswith(NAME)


WRITING = {
    "build": [],
    "card": ["--set", "name=Alloy"],
    "modify": ["--modifier", "modify_PerTypeScaleShift", "shifts={Cu: 2.0}"],
    "update": ["--replace", GATE],
}


@pytest.mark.parametrize("command", WRITING)
def test_commands_that_write_take_a_name(
    address: str, package: Path, tmp_path: Path, command: str
) -> None:
    output = tmp_path / "output.nequip.zip"
    words = [NAME, str(output), *WRITING[command], *["--trust-code"] * (command != "card")]
    assert main([command, *words]) == 0
    assert PackageReader(output).lineage[0]["digest"] == PackageReader(package).identity


def test_name_may_follow_an_option_that_takes_several_words(address: str, tmp_path: Path) -> None:
    output = tmp_path / "output.nequip.zip"
    words = ["--modifier", "modify_PerTypeScaleShift", "shifts={Cu: 2.0}", NAME, str(output)]
    assert main(["modify", *words, "--trust-code"]) == 0
    assert output.exists()


def test_upgrade_takes_a_name(address: str, folder: Path, tmp_path: Path) -> None:
    assert main(["push", str(FORMAT2), str(folder), OLDER]) == 0
    output = tmp_path / "output.nequip.zip"
    assert main(["upgrade", OLDER, str(output), "--trust-code"]) == 0
    assert PackageReader(output).format_version == 3


def test_convert_takes_a_name(
    address: str, folder: Path, tmp_path: Path, reference_package: Callable[..., Path]
) -> None:
    assert main(["push", str(reference_package("0.19.1")), str(folder), OLDER]) == 0
    output = tmp_path / "output.nequip.zip"
    assert main(["convert", OLDER, str(output)]) == 0
    assert load_package(output, trust_code=False).loaded_by == "rebuild"


def test_push_takes_a_name(address: str, tmp_path: Path, package: Path) -> None:
    assert main(["push", NAME, str(tmp_path / "mirror"), NAME]) == 0
    copy = tmp_path / "mirror" / "our-group" / "Alloy" / "1.0.nequip.zip"
    assert copy.read_bytes() == package.read_bytes()


@pytest.mark.parametrize("command", ["info", "list", "verify", "audit", "diff", "card"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nequip.net:our-group/Alloy", "names no model"),
        ("nequip.net:our-group/Alloy:9", "no repository has the model"),
    ],
)
def test_wrong_name_is_one_line(
    address: str, capsys: pytest.CaptureFixture, command: str, name: str, message: str
) -> None:
    assert main([command, name]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_everything_works_where_there_is_no_network(address: str) -> None:
    found = local_file(NAME)
    unshare = shutil.which("unshare")
    alone = [str(unshare), "-rn"]
    if unshare is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("network namespaces are not for this user")
    code = (
        "import socket, sys\n"
        "from nequip_core.saved_model import load_saved_model, local_file\n"
        "from nequip_package.command import main\n"
        "try:\n"
        "    socket.create_connection(('127.0.0.1', int(sys.argv[2])), 5)\n"
        "    sys.exit('there is a network')\n"
        "except OSError:\n"
        "    pass\n"
        "print(local_file(sys.argv[1]), load_saved_model(sys.argv[1]).loaded_by)\n"
        "commands = ('info', 'list', 'verify', 'audit')\n"
        "sys.exit(max(main([command, sys.argv[1]]) for command in commands))\n"
    )
    command = [*alone, sys.executable, "-c", code, NAME, address.rpartition(":")[2]]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{found} rebuild"


def test_cache_command(
    own_cache: Path,
    package: Path,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("filelock")
    assert main(["cache", "list"]) == 0
    assert "no models in" in capsys.readouterr().out
    assert main(["cache", "add", str(package), NAME]) == 0
    monkeypatch.setenv("NEQUIP_REPOSITORY", (tmp_path / "none").as_uri())
    assert local_file(NAME).read_bytes() == package.read_bytes()
    assert main(["cache", "list"]) == main(["cache", "verify"]) == 0
    assert "our-group/Alloy:1.0: good" in capsys.readouterr().out
    found = local_file(NAME)
    found.write_bytes(found.read_bytes()[:-1])
    assert main(["cache", "verify"]) == 1
    assert "BAD" in capsys.readouterr().out
    assert main(["cache", "prune", "--all"]) == 0
    assert not found.exists()
    assert main(["cache", "verify"]) == 0
    assert "not here" in capsys.readouterr().out
    assert main(["cache", "forget", NAME]) == 0
    assert not list((own_cache / "names").iterdir())


def test_published_version_is_not_replaced(
    folder: Path, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tmp_path / "other.nequip.zip"
    assert main(["card", str(package), str(other), "--set", "name=Other"]) == 0
    assert main(["push", str(other), str(folder), NAME]) == 1
    assert "publish a new version" in capsys.readouterr().err
    assert main(["push", str(package), str(folder), NAME]) == 0


def test_versions_after_one_by_an_accepted_key_need_one(
    address: str, folder: Path, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("cryptography")
    key, signed = tmp_path / "key", tmp_path / "signed.nequip.zip"
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    subprocess.run(make, check=True)
    assert main(["sign", str(package), str(signed), "--key", str(key)]) == 0
    assert main(["push", str(signed), str(folder), "our-group/Signed:1"]) == 0
    assert main(["push", str(package), str(folder), "our-group/Signed:2"]) == 0
    assert main(["trust", f"{key}.pub", "--owner", "A. Author"]) == 0
    local_file("nequip.net:our-group/Signed:1")
    with pytest.raises(TrustError, match="is signed by nobody"):
        local_file("nequip.net:our-group/Signed:2")
    capsys.readouterr()
    assert main(["trust"]) == 0
    assert "A. Author" in capsys.readouterr().out
    assert main(["trust", f"{key}.pub", "--remove"]) == 0
    assert local_file("nequip.net:our-group/Signed:2").is_file()
