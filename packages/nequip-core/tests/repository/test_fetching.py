"""Models by name: what a client accepts from a repository, and what stays in its cache."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nequip_core.errors import (
    ConfigError,
    DownloadError,
    MissingDependencyError,
    MissingFileError,
    TrustError,
)
from nequip_core.origin import Origin
from nequip_core.repository.cache import ModelCache
from nequip_core.repository.names import parse_reference
from nequip_core.repository.settings import cache_folder, is_permitted, repositories
from nequip_core.saved_model import is_reference, load_saved_model, local_file

pytest.importorskip("requests")
pytest.importorskip("filelock")

NAME = "nequip.net:our-group/Alloy:1.0"
ASKED = "/api/models/download/our-group%2FAlloy%3A1.0"


def test_paths_pass_through() -> None:
    assert local_file("folder/none.ckpt") == Path("folder/none.ckpt")
    assert not is_reference("a.nequip.zip")
    assert not is_reference(Path("nequip.net:a/b:1"))
    assert is_reference("nequip.net:")


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "a/b", "a/b:", "/b:1", "a/:1", "../b:1", "a/../b:1", "a/b:..", "a/b:.1",
        "a/b:1/../../x", "a/b:1\n", "a\\b/c:1", "a/b:1?x", "a/b:%2e", "ä/b:1", "a/b:" + "1" * 200,
        "/etc/passwd:1", "a/b:1\x00", "a/b@c:1", "~/b:1", "a/b:1#x",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused_without_asking(
    server: Any, cached: Any, text: str
) -> None:
    with pytest.raises(ConfigError, match="names no model"):
        local_file(f"nequip.net:{text}")
    assert server.asked == []
    assert not cached.folder.exists()


def test_without_the_extra_it_says_what_to_install(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(MissingDependencyError, match=r"nequip-core\[repository\]"):
        local_file(NAME)


def test_the_documented_request_is_made_once(server: Any, alloy: Any, cached: Any) -> None:
    server.serves(alloy, **alloy.stated)
    assert local_file(NAME).read_bytes() == alloy.content
    assert [asked.path for asked in server.asked] == [ASKED, "/file"]
    assert server.asked[0].agent.startswith("nequip-core/")
    assert cached.names == {"our-group/Alloy:1.0": alloy.identity}
    assert cached.packages == [alloy.identity]
    assert not cached.parts


def test_what_is_cached_is_used_without_the_network_and_without_the_extra(
    server: Any, alloy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serves(alloy, **alloy.stated)
    found = local_file(NAME)
    count = len(server.asked)

    def forbidden(*unused: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setitem(sys.modules, "requests", None)
    monkeypatch.setitem(sys.modules, "filelock", None)
    assert local_file(NAME) == found
    assert len(server.asked) == count


def test_downloaded_models_are_rebuilt_and_their_code_is_not_run(server: Any, alloy: Any) -> None:
    pytest.importorskip("nequip_model")
    server.serves(alloy)
    assert load_saved_model(NAME).loaded_by == "rebuild"


def test_code_of_a_download_runs_by_consent_only(server: Any, other: Any) -> None:
    server.serves(other)  # of format 2, which cannot be rebuilt
    with pytest.raises(TrustError, match="there is no consent to run it"):
        load_saved_model(NAME)
    assert load_saved_model(NAME, trust_code=True).loaded_by == "snapshot"


def test_every_byte_in_the_cache_is_checked_on_every_use(
    server: Any, alloy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.serves(alloy)
    found = local_file(NAME)
    content = bytearray(found.read_bytes())
    content[len(content) // 2] ^= 1
    found.write_bytes(content)
    assert local_file(NAME).read_bytes() == alloy.content
    assert "is not used" in caplog.text


BAD_FILES = {
    "truncated": (lambda s, c: s.sends(c[: len(c) // 2], Content_Length=str(len(c))), "broke off"),
    "short": (lambda s, c: s.sends(c[:5000]), "is of no use"),
    "without a length": (lambda s, c: s.sends(c[:5000], Content_Length=None), "is of no use"),
    "web page": (lambda s, c: s.sends(b"<!DOCTYPE html><html>log in</html>"), "a web page"),
    "another kind": (lambda s, c: s.sends(b"\x7fELF"), "begins with"),
    "nothing": (lambda s, c: s.sends(b""), "empty file"),
    "other zip": (lambda s, c: s.sends(b"PK\x03\x04" + bytes(500)), "is of no use"),
    "packed": (lambda s, c: s.sends(c, Content_Encoding="gzip"), "packed"),
    "huge": (lambda s, c: s.sends(c, Content_Length=str(2**50)), "at most"),
    "to a file": (lambda s, c: s.redirects("file:///etc/passwd"), "not followed"),
    "to ftp": (lambda s, c: s.redirects("ftp://127.0.0.1/a"), "not followed"),
    "to plain http": (lambda s, c: s.redirects("http://192.0.2.1/a"), "not followed"),
    "to data": (lambda s, c: s.redirects("data:application/zip;base64,UEsDBA=="), "not followed"),
    "for ever": (lambda s, c: s.redirects("/file"), "more than 5 times"),
    "gone": (lambda s, c: s.missing, "answers 404"),
    "forbidden": (lambda s, c: s.sends(b"no", status=403), "answers 403"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_one_clear_error_and_the_cache_unharmed(
    server: Any, alloy: Any, cached: Any, case: str
) -> None:
    answer, message = BAD_FILES[case]
    server.lists()
    server.answers["/file"] = answer(server, alloy.content)
    with pytest.raises(DownloadError, match=message):
        local_file(NAME)
    assert cached.is_empty()
    server.answers["/file"] = server.sends(alloy.content)
    assert local_file(NAME).read_bytes() == alloy.content


def test_more_than_is_stated_is_not_written(server: Any, alloy: Any, cached: Any) -> None:
    def endless(handler: Any) -> None:
        server.sends(alloy.content, Content_Length=None)(handler)
        while True:
            handler.wfile.write(bytes(2**16))

    server.lists(size=len(alloy.content))
    server.answers["/file"] = endless
    with pytest.raises(DownloadError, match=f"more than the {len(alloy.content)} bytes"):
        local_file(NAME)
    assert cached.is_empty()
    assert not cached.parts


ANSWER = '{"modelId": "our-group/Alloy:1.0", "artifact": {"downloadUrl": %s}}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<html>", "is not JSON"),
        ("[]", "is not a mapping"),
        ('{"modelId": "a/b:2"}', "is about"),
        ('{"modelId": "our-group/Alloy:1.0"}', "names no file"),
        (ANSWER % "1", "no address"),
        (ANSWER % '"\\u001b[2J"', "no address"),
        (ANSWER % '"file:///etc/passwd"', "not fetched"),
        (ANSWER % '"http://192.0.2.1/file"', "not fetched"),
        (ANSWER % '"/f", "size": 1e99', "size"),
        (ANSWER % '"/f", "sha256": "../x"', "no SHA-256"),
        ("[" * 10000, "nested|JSON"),
        (" " * 2**21, "more than"),
    ],
)
def test_answers_of_a_repository_are_not_taken_on_faith(
    server: Any, cached: Any, content: str, message: str
) -> None:
    server.answers[ASKED] = server.sends(content.encode())
    with pytest.raises(DownloadError, match=message):
        local_file(NAME)
    assert cached.is_empty()


def test_answer_that_breaks_off_is_a_clear_error(server: Any) -> None:
    server.answers[ASKED] = server.sends(b"{", Content_Length="500")
    with pytest.raises(DownloadError, match=r"the answer of .* broke off"):
        local_file(NAME)


def test_wrong_digest_shows_both(server: Any, alloy: Any, cached: Any) -> None:
    server.serves(alloy, sha256="0" * 64)
    with pytest.raises(DownloadError, match=rf"(?s){'0' * 64}.*{alloy.stated['sha256']}"):
        local_file(NAME)
    server.lists(identity="1" * 64)
    with pytest.raises(DownloadError, match=rf"(?s){alloy.identity}.*{'1' * 64}"):
        local_file(NAME)
    assert cached.is_empty()
    assert not cached.parts


@pytest.mark.parametrize("states", [True, False])
def test_another_package_under_a_known_name_is_refused_with_both_identities(
    server: Any, alloy: Any, other: Any, cached: Any, states: bool
) -> None:
    server.serves(alloy)
    local_file(NAME)
    ModelCache(cache_folder()).prune(everything=True)
    server.serves(other, **(other.stated if states else {}))
    with pytest.raises(TrustError, match=rf"(?s){alloy.identity}.*{other.identity}"):
        local_file(NAME)
    assert cached.names == {"our-group/Alloy:1.0": alloy.identity}
    ModelCache(cache_folder()).forget(parse_reference(NAME))
    assert local_file(NAME).read_bytes() == other.content


def test_name_that_the_repository_does_not_have(server: Any, cached: Any) -> None:
    with pytest.raises(MissingFileError, match="no repository has the model 'our-group"):
        local_file(NAME)
    assert [asked.path for asked in server.asked] == [ASKED]
    assert cached.is_empty()


def test_source_of_a_compiled_file_is_fetched_again_by_its_name(
    server: Any, alloy: Any, tmp_path: Path, cached: Any
) -> None:
    def found(digest: str = alloy.stated["sha256"], name: str = NAME) -> Path | None:
        metadata = {"nequip_source": name, "nequip_source_digest": digest}
        return Origin.of(metadata).find(tmp_path / "model.nequip.pt2")

    assert found() is None  # no repository has it
    server.serves(alloy)
    path = found()
    assert path is not None
    assert path.read_bytes() == alloy.content
    count = len(server.asked)
    assert found() == path
    assert found(digest="0" * 64) is None
    assert found(digest="") is None
    assert found(name="nequip.net:../Alloy:1") is None
    assert len(server.asked) == count
    ModelCache(cached.folder).prune(everything=True)
    assert found() == path
    server.close()
    shutil.rmtree(cached.folder)
    assert found() is None


@pytest.fixture
def folder(tmp_path: Path, alloy: Any) -> Path:
    """Return a repository that is a folder, with three versions."""
    for version in ("1.0", "1.9", "1.10", "2.0rc1"):
        target = tmp_path / "models" / "our-group" / "Alloy" / f"{version}.nequip.zip"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(alloy.path, target)
    return tmp_path / "models"


def test_repositories_are_asked_in_order(
    server: Any, folder: Path, alloy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    bases = f"http://127.0.0.1:{port}, {server.base} {folder.as_uri()}"
    monkeypatch.setenv("NEQUIP_REPOSITORY", bases)
    assert local_file(NAME).read_bytes() == alloy.content
    assert len(server.asked) == 1
    with pytest.raises(DownloadError, match="cannot be reached"):
        local_file("nequip.net:our-group/Alloy:2")
    monkeypatch.setenv("NEQUIP_REPOSITORY", folder.as_uri())
    with pytest.raises(MissingFileError, match="no repository has the model"):
        local_file("nequip.net:our-group/Alloy:2")


def test_a_folder_that_cannot_be_read_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = folder / "our-group" / "Alloy" / "1.0.nequip.zip"
    monkeypatch.setenv("NEQUIP_REPOSITORY", folder.as_uri())
    opened = Path.open

    def denied(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == file:
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)  # a superuser is denied nothing
    with pytest.raises(DownloadError, match=r"1\.0\.nequip\.zip' cannot be read: Permission"):
        local_file(NAME)
    monkeypatch.setenv("NEQUIP_REPOSITORY", (tmp_path / "none").as_uri())
    with pytest.raises(DownloadError, match="is no folder"):
        local_file(NAME)


def test_only_safe_addresses_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for base in ("http://192.0.2.1", "ftp://127.0.0.1", "file:relative", "https://a:b@127.0.0.1"):
        monkeypatch.setenv("NEQUIP_REPOSITORY", base)
        with pytest.raises(ConfigError, match="must begin with"):
            repositories()
    monkeypatch.delenv("NEQUIP_REPOSITORY")
    assert repositories() == ["https://www.nequip.net"]
    assert not is_permitted("http://127.0.0.1/", "https://www.nequip.net/")
    assert is_permitted("https://www.nequip.net/", "http://127.0.0.1/")


def test_newer_version_is_a_notice(
    server: Any, alloy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.serves(alloy, newer="our-group/Alloy:1.1")
    local_file(NAME)
    assert "there is a newer version" in caplog.text
    assert "nequip.net:our-group/Alloy:1.1" in caplog.text


@pytest.mark.parametrize(
    ("version", "newest"), [("1.0", "1.10"), ("1.10", None), ("2.0rc1", None), ("1.0rc1", "2.0rc1")]
)
def test_newest_version_of_a_folder(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: str,
    newest: str | None,
) -> None:
    file = folder / "our-group" / "Alloy" / f"{version}.nequip.zip"
    if not file.exists():
        shutil.copyfile(file.with_name("1.0.nequip.zip"), file)
    monkeypatch.setenv("NEQUIP_REPOSITORY", folder.as_uri())
    local_file(f"nequip.net:our-group/Alloy:{version}")
    noticed = [line for line in caplog.messages if "newer" in line]
    expected = [] if newest is None else [f"nequip.net:our-group/Alloy:{newest}"]
    assert [line.rpartition(" ")[2] for line in noticed] == expected


LIMITED = """
import resource, sys
from nequip_core.saved_model import local_file
from nequip_core.command_line import run_command
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
sys.exit(run_command(lambda: print(local_file(sys.argv[1]))))
"""
PLAIN = LIMITED.replace("resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n", "")


def test_file_size_limit_is_one_clear_error_and_the_cache_unharmed(
    server: Any, alloy: Any, cached: Any
) -> None:
    server.serves(alloy)
    found = subprocess.run([sys.executable, "-c", LIMITED, NAME], capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.startswith("error: 'our-group/Alloy:1.0' cannot be kept in")
    assert "Traceback" not in found.stderr
    assert cached.is_empty()
    assert local_file(NAME).read_bytes() == alloy.content


def test_full_disk_is_one_clear_error_and_the_download_goes_on_when_there_is_room(
    server: Any, alloy: Any, cached: Any, unshare: Any
) -> None:
    command = unshare("-rm")
    server.lists(**alloy.stated)
    server.answers["/file"] = server.parts_of(alloy.content)
    cached.folder.mkdir()
    script = (
        'mount -t tmpfs -o size=96k none "$1" || exit 77\n'
        'shift; "$@"; code=$?\n'
        'mount -o remount,size=4m "$NEQUIP_CACHE_DIR"; "$@" && exit $code\n'
    )
    fetch = [sys.executable, "-c", PLAIN, NAME]
    found = subprocess.run(
        [*command, "sh", "-c", script, "sh", str(cached.folder), *fetch],
        capture_output=True,
        text=True,
    )
    if found.returncode == 77:
        pytest.skip("a small file system cannot be mounted here")
    assert found.returncode == 1, found.stderr
    assert found.stderr.startswith("error: 'our-group/Alloy:1.0' cannot be kept in")
    assert "No space left on device: make room, the next attempt goes on" in found.stderr
    assert found.stdout.strip().endswith(f"{alloy.identity}.nequip.zip")
    first, second = server.asked_for()
    assert first.range is None
    assert second.range is not None
    assert int(second.range[6:-1]) > 30000
