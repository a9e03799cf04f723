"""``serve``, ``push``, ``cache`` and ``trust``, over a real connection on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("requests")
pytest.importorskip("waitress")

from nequip_core.archive.reader import PackageReader
from nequip_core.errors import TrustError
from nequip_core.saved_model import load_saved_model, local_file
from nequip_package.command import main

NAME = "nequip.net:our-group/Alloy:1.0"


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NEQUIP_NO_CACHE", "NEQUIP_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("NEQUIP_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path, package: Path) -> Path:
    assert main(["push", str(package), str(tmp_path / "models"), NAME]) == 0
    return tmp_path / "models"


@pytest.fixture
def address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    code = "import sys; from nequip_package.command import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            address = server.stderr.readline().split()[-1]
            monkeypatch.setenv("NEQUIP_REPOSITORY", address)
            yield address
        finally:
            server.kill()


def status(address: str) -> int:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def page(address: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address) as found:
        return str(found.read().decode())


def test_pushed_package_is_fetched_by_name_and_rebuilt(address: str, package: Path) -> None:
    assert local_file(NAME).read_bytes() == package.read_bytes()
    assert load_saved_model(NAME, trust_code=False).loaded_by == "rebuild"


def test_commands_take_names(address: str, package: Path, capsys: pytest.CaptureFixture) -> None:
    for command in (["info"], ["list"], ["card"], ["audit"], ["verify", "--static"]):
        assert main([*command, NAME]) == 0, command
    assert main(["diff", NAME, str(package)]) == 0
    assert PackageReader(package).identity in capsys.readouterr().out


def test_fetched_models_are_read_where_there_is_no_network(address: str) -> None:
    found = local_file(NAME)
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("network namespaces are not for this user")
    code = "import sys; from nequip_core.saved_model import local_file as f; print(f(sys.argv[1]))"
    environment = {**os.environ, "NEQUIP_REPOSITORY": "https://www.nequip.net"}
    command = [unshare, "-rn", sys.executable, "-c", code, NAME]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(found)


def test_cache_command(
    package: Path, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["cache", "add", str(package), NAME]) == 0
    monkeypatch.setenv("NEQUIP_REPOSITORY", (tmp_path / "none").as_uri())
    assert local_file(NAME).read_bytes() == package.read_bytes()
    assert main(["cache", "list"]) == main(["cache", "verify"]) == 0
    found = local_file(NAME)
    found.write_bytes(found.read_bytes()[:-1])
    assert main(["cache", "verify"]) == 1
    assert "BAD" in capsys.readouterr().out
    assert main(["cache", "prune", "--all"]) == 0
    assert not found.exists()


def test_published_version_is_not_replaced(
    folder: Path, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tmp_path / "other.nequip.zip"
    assert main(["card", str(package), str(other), "--set", "name=Other"]) == 0
    assert main(["push", str(other), str(folder), NAME]) == 1
    assert "publish a new version" in capsys.readouterr().err
    assert main(["push", str(package), str(folder), NAME]) == 0


def test_page_escapes_what_cards_say(address: str, folder: Path, package: Path) -> None:
    evil = folder.parent / "evil.nequip.zip"
    text = "name=<img src=x onerror=alert(1)>"
    assert main(["card", str(package), str(evil), "--set", text]) == 0
    assert main(["push", str(evil), str(folder), "our-group/Evil:1"]) == 0
    found = page(address)
    assert "our-group/Alloy:1.0" in found
    assert "<img" not in found
    assert "&lt;img src=x onerror=alert(1)&gt;" in found


@pytest.mark.parametrize(
    "path",
    [
        "/files/../../secret.nequip.zip",
        "/files/%2e%2e/%2e%2e/secret.nequip.zip",
        "/files/our-group/link/1.nequip.zip",
        "/api/models/download/..%2F..%2Fsecret:1",
        "/api/models/download/a%2Fb%3A9",
        "/elsewhere",
    ],
)
def test_nothing_outside_the_folder_is_served(
    address: str, folder: Path, package: Path, path: str
) -> None:
    shutil.copyfile(package, folder.parent / "secret.nequip.zip")
    (folder / "our-group" / "link").mkdir()
    (folder / "our-group" / "link" / "1.nequip.zip").symlink_to(folder.parent / "secret.nequip.zip")
    assert status(address + path) == 404


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
