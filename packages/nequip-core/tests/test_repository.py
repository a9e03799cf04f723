"""Models by name: what a client accepts from a repository, and what stays in its cache."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nequip_core.archive.reader import PackageReader
from nequip_core.digests import file_digest
from nequip_core.errors import (
    ConfigError,
    DownloadError,
    MissingDependencyError,
    MissingFileError,
    TrustError,
)
from nequip_core.repository import transfer
from nequip_core.repository.cache import ModelCache
from nequip_core.repository.names import parse_reference
from nequip_core.repository.settings import cache_folder, is_permitted, repositories
from nequip_core.saved_model import is_reference, load_saved_model, local_file

GOLDEN = Path(__file__).parents[3] / "tests" / "golden"
PACKAGE = GOLDEN / "format3-nequip-0.2.0" / "model.nequip.zip"
OTHER = GOLDEN / "format2-nequip-0.1.0" / "model.nequip.zip"
NAME = "nequip.net:our-group/Alloy:1.0"
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """A server on this machine whose answers a test decides, address by address."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.answers: dict[str, Answer] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Range")))
                outer.answers.get(self.path, outer.missing)(self)

            def log_message(self, *unused: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
        self.thread.start()

    @staticmethod
    def missing(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(404)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def lists(self, **artifact: Any) -> None:
        """Answer for NAME with these facts of its file, which is at /file."""
        content = {"modelId": "our-group/Alloy:1.0", "newerVersionId": None}
        content["artifact"] = {"downloadUrl": f"{self.base}/file", **artifact}
        self.answers["/api/models/download/our-group%2FAlloy%3A1.0"] = sends(
            json.dumps(content).encode()
        )

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def sends(content: bytes, **headers: str) -> Answer:
    """Return an answer with this content; `Content_Length` may lie."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for key, value in {"Content_Length": str(len(content)), **headers}.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = True

    return answer


def redirects(target: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setenv("NEQUIP_REPOSITORY", server.base)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache, a home and keys of its own, and no patience."""
    for name in ("NEQUIP_NO_CACHE", "NEQUIP_REPOSITORY", "NEQUIP_TRUST_CODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("NEQUIP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "_BACKOFF", 0.01)
    return tmp_path


def packages_in_cache() -> list[str]:
    return sorted(path.name for path in (cache_folder() / "packages").glob("*"))


def identity() -> str:
    return PackageReader(PACKAGE).identity


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
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="names no model"):
        local_file(f"nequip.net:{text}")


def test_without_the_extra_it_says_what_to_install(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(MissingDependencyError, match=r"nequip-core\[repository\]"):
        local_file(NAME)


def test_download_is_checked_kept_and_used_without_the_network(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.lists(sha256=file_digest(PACKAGE), size=PACKAGE.stat().st_size, identity=identity())
    server.answers["/file"] = sends(PACKAGE.read_bytes())
    found = local_file(NAME)
    assert found.read_bytes() == PACKAGE.read_bytes()
    assert packages_in_cache() == [f"{identity()}.nequip.zip"]
    count = len(server.asked)

    def forbidden(*unused: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setitem(sys.modules, "requests", None)
    assert local_file(NAME) == found
    assert len(server.asked) == count


def test_downloaded_models_are_rebuilt_and_their_code_is_not_run(server: Server) -> None:
    pytest.importorskip("nequip_model")
    server.lists()
    server.answers["/file"] = sends(PACKAGE.read_bytes())
    assert load_saved_model(NAME).loaded_by == "rebuild"


def test_every_byte_in_the_cache_is_checked_on_every_use(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.lists()
    server.answers["/file"] = sends(PACKAGE.read_bytes())
    found = local_file(NAME)
    content = bytearray(found.read_bytes())
    content[len(content) // 2] ^= 1
    found.write_bytes(content)
    assert local_file(NAME).read_bytes() == PACKAGE.read_bytes()
    assert "is not used" in caplog.text


def broken_answers(base: str) -> dict[str, tuple[Answer, str]]:
    content = PACKAGE.read_bytes()
    size = len(content)
    return {
        "truncated": (sends(content[: size // 2], Content_Length=str(size)), "broke off"),
        "short without a length": (sends(content[:5000]), "is of no use"),
        "web page": (sends(b"<!DOCTYPE html><html>log in</html>"), "a web page"),
        "another kind": (sends(b"\x7fELF"), "begins with"),
        "nothing": (sends(b""), "empty file"),
        "zip that is no package": (sends(b"PK\x03\x04" + bytes(500)), "is of no use"),
        "packed": (sends(content, Content_Encoding="gzip"), "packed"),
        "too much": (sends(content, Content_Length=str(2**50)), "at most"),
        "redirect to a file": (redirects("file:///etc/passwd"), "not followed"),
        "redirect to ftp": (redirects("ftp://127.0.0.1/a"), "not followed"),
        "redirect to plain http": (redirects("http://192.0.2.1/a"), "not followed"),
        "redirects for ever": (redirects(f"{base}/file"), "more than 5 times"),
        "gone": (Server.missing, "answers 404"),
    }


@pytest.mark.parametrize("case", sorted(broken_answers("")))
def test_bad_file_is_one_clear_error_and_the_cache_unharmed(server: Server, case: str) -> None:
    server.lists()
    server.answers["/file"], message = broken_answers(server.base)[case]
    with pytest.raises(DownloadError, match=message):
        local_file(NAME)
    assert packages_in_cache() == []
    assert ModelCache(cache_folder()).records() == []
    server.answers["/file"] = sends(PACKAGE.read_bytes())
    assert local_file(NAME).read_bytes() == PACKAGE.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "is not JSON"),
        (b"[]", "is not a mapping"),
        (b'{"modelId": "a/b:2"}', "is about"),
        (b'{"modelId": "our-group/Alloy:1.0"}', "names no file"),
        (b'{"modelId": "our-group/Alloy:1.0", "artifact": {"downloadUrl": 1}}', "no address"),
        (b'{"modelId": "our-group/Alloy:1.0", "artifact": {"downloadUrl": "\\u001b[2J"}}', "addr"),
        (
            b'{"modelId": "our-group/Alloy:1.0", "artifact": {"downloadUrl": "file:///etc/passwd"}}',
            "not fetched",
        ),
        (
            b'{"modelId": "our-group/Alloy:1.0", "artifact": {"downloadUrl": "/f", "size": 1e99}}',
            "size",
        ),
        (b"[" * 10000, "nested|JSON"),
        (b" " * 2**21, "more than"),
    ],
)
def test_answers_of_a_repository_are_not_taken_on_faith(
    server: Server, content: bytes, message: str
) -> None:
    server.answers["/api/models/download/our-group%2FAlloy%3A1.0"] = sends(content)
    with pytest.raises(DownloadError, match=message):
        local_file(NAME)


def test_wrong_digest_shows_both(server: Server) -> None:
    server.lists(sha256="0" * 64)
    server.answers["/file"] = sends(PACKAGE.read_bytes())
    with pytest.raises(DownloadError, match=rf"(?s){'0' * 64}.*{file_digest(PACKAGE)}"):
        local_file(NAME)
    server.lists(identity="1" * 64)
    with pytest.raises(DownloadError, match="1" * 64):
        local_file(NAME)
    assert packages_in_cache() == []


def test_another_package_under_a_known_name_is_refused_with_both_identities(
    server: Server,
) -> None:
    server.lists()
    server.answers["/file"] = sends(PACKAGE.read_bytes())
    local_file(NAME)
    ModelCache(cache_folder()).prune(everything=True)
    server.answers["/file"] = sends(OTHER.read_bytes())
    with pytest.raises(TrustError, match=rf"(?s){identity()}.*{file_digest(OTHER)}"):
        local_file(NAME)
    ModelCache(cache_folder()).forget(parse_reference(NAME))
    assert local_file(NAME).read_bytes() == OTHER.read_bytes()


def test_download_goes_on_where_it_broke_off(server: Server) -> None:
    content = PACKAGE.read_bytes()
    half = 5 * transfer._CHUNK
    server.lists(sha256=file_digest(PACKAGE), size=len(content))
    first = sends(content[:half], Content_Length=str(len(content)), ETag='"a"')

    def rest(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("Range") is None:
            first(handler)
            return
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        handler.wfile.write(content[start:])

    server.answers["/file"] = rest
    assert local_file(NAME).read_bytes() == content
    assert [wanted for path, wanted in server.asked if path == "/file"] == [None, f"bytes={half}-"]


def test_repositories_are_asked_in_order(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "models" / "our-group" / "Alloy" / "1.0.nequip.zip"
    target.parent.mkdir(parents=True)
    shutil.copyfile(PACKAGE, target)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    bases = f"http://127.0.0.1:{port}, {server.base} {(tmp_path / 'models').as_uri()}"
    monkeypatch.setenv("NEQUIP_REPOSITORY", bases)
    assert local_file(NAME).read_bytes() == PACKAGE.read_bytes()
    assert len(server.asked) == 1
    with pytest.raises(DownloadError, match="cannot be reached"):
        local_file("nequip.net:our-group/Alloy:2")
    monkeypatch.setenv("NEQUIP_REPOSITORY", (tmp_path / "models").as_uri())
    with pytest.raises(MissingFileError, match="no repository has the model"):
        local_file("nequip.net:our-group/Alloy:2")


def test_only_safe_addresses_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for base in ("http://192.0.2.1", "ftp://127.0.0.1", "file:relative", "https://a:b@127.0.0.1"):
        monkeypatch.setenv("NEQUIP_REPOSITORY", base)
        with pytest.raises(ConfigError, match="must begin with"):
            repositories()
    assert not is_permitted("http://127.0.0.1/", "https://www.nequip.net/")
    assert is_permitted("https://www.nequip.net/", "http://127.0.0.1/")


def test_newer_version_is_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for version in ("1.0", "1.9", "1.10"):
        target = tmp_path / "models" / "our-group" / "Alloy" / f"{version}.nequip.zip"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE, target)
    monkeypatch.setenv("NEQUIP_REPOSITORY", (tmp_path / "models").as_uri())
    local_file(NAME)
    assert "nequip.net:our-group/Alloy:1.10" in caplog.text


def test_models_of_the_older_cache_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "home" / ".nequip" / "model_cache"
    folder.mkdir(parents=True)
    shutil.copyfile(OTHER, folder / "abc.nequip.zip")
    recorded = {"model_id": "our-group/Alloy:1.0", "file_sha256": file_digest(OTHER)}
    (folder / "abc.metadata.json").write_text(json.dumps(recorded))
    assert local_file(NAME) == folder / "abc.nequip.zip"


def test_without_a_cache_nothing_is_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.lists()
    server.answers["/file"] = sends(PACKAGE.read_bytes())
    monkeypatch.setenv("NEQUIP_NO_CACHE", "1")
    assert local_file(NAME).read_bytes() == PACKAGE.read_bytes()
    assert not cache_folder().exists()


FETCH = "import sys; from nequip_core.saved_model import local_file; print(local_file(sys.argv[1]))"


def test_eight_processes_download_once(server: Server) -> None:
    server.lists(sha256=file_digest(PACKAGE))
    server.answers["/file"] = sends(PACKAGE.read_bytes())
    processes = [
        subprocess.Popen([sys.executable, "-c", FETCH, NAME], stdout=subprocess.PIPE)
        for _ in range(8)
    ]
    outputs = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 8
    assert len(outputs) == 1
    assert [path for path, _ in server.asked].count("/file") == 1


def test_killed_downloads_leave_a_part_and_never_a_bad_entry(server: Server) -> None:
    content = PACKAGE.read_bytes()
    server.lists(sha256=file_digest(PACKAGE), size=len(content))
    reached = threading.Event()
    release = threading.Event()
    stop = 0

    def pausing(handler: BaseHTTPRequestHandler) -> None:
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        handler.wfile.write(content[start:stop])
        handler.wfile.flush()
        reached.set()
        release.wait(60)
        handler.close_connection = True

    server.answers["/file"] = pausing
    for step in range(1, 11):
        stop = len(content) * step // 11
        reached.clear()
        release.clear()
        process = subprocess.Popen([sys.executable, "-c", FETCH, NAME])
        assert reached.wait(60)
        process.kill()
        process.wait(60)
        release.set()
        assert packages_in_cache() == []
    server.answers["/file"] = lambda handler: sends(content)(handler)
    assert local_file(NAME).read_bytes() == content
    assert not list((cache_folder() / "parts").glob("*"))


def test_full_disk_is_one_clear_error_and_the_cache_unharmed(server: Server) -> None:
    server.lists()
    server.answers["/file"] = sends(PACKAGE.read_bytes())
    code = (
        "import resource, sys\n"
        "from nequip_core.saved_model import local_file\n"
        "from nequip_core.command_line import run_command\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "sys.exit(run_command(lambda: print(local_file(sys.argv[1]))))\n"
    )
    found = subprocess.run([sys.executable, "-c", code, NAME], capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.startswith("error: 'our-group/Alloy:1.0' cannot be kept in")
    assert packages_in_cache() == []
    assert local_file(NAME).read_bytes() == PACKAGE.read_bytes()
