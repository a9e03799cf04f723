"""``nequip-package serve``, over a real connection on this machine."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest

from nequip_core.archive.format import CARD_MEMBER
from nequip_core.archive.reader import PackageReader
from nequip_core.digests import file_digest
from nequip_core.saved_model import local_file
from nequip_package.command import main
from nequip_package.replaced_members import write_with_members

NAME = "nequip.net:our-group/Alloy:1.0"
ASKED = "/api/models/download/our-group%2FAlloy%3A1.0"
FILE = "/files/our-group/Alloy/1.0.nequip.zip"

CODE = "import sys; from nequip_package.command import main; sys.exit(main(sys.argv[1:]))"
SERVE = [sys.executable, "-c", CODE, "serve"]


@pytest.fixture(autouse=True)
def own_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


class Answer:
    def __init__(self, address: str, path: str, method: str = "GET", **headers: str) -> None:
        parts = urlsplit(address)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
        given = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, headers=given)
        response = connection.getresponse()
        self.status = response.status
        self.headers = response.headers
        self.content = response.read()
        connection.close()

    @property
    def text(self) -> str:
        return self.content.decode()


def test_listing_states_what_is_documented(address: str, package: Path) -> None:
    found = json.loads(Answer(address, ASKED).text)
    page = f"{address}/models/our-group/Alloy#our-group/Alloy:1.0"
    assert found == {
        "modelId": "our-group/Alloy:1.0",
        "newerVersionId": None,
        "webUrl": page,
        "artifact": {
            "downloadUrl": f"{address}{FILE}",
            "viewUrl": page,
            "hostName": urlsplit(address).netloc,
            "doi": None,
            "sha256": file_digest(package),
            "size": package.stat().st_size,
            "identity": PackageReader(package).identity,
        },
    }
    # What the reference implementation sends: two slashes, its own name.
    again = Answer(address, f"/{ASKED}", User_Agent="NequipAPIClient/1.0 (Python)")
    assert json.loads(again.text) == found


def test_newer_version_is_listed(address: str, folder: Path, package: Path) -> None:
    for version in ("1.9", "1.10", "2.0rc1"):
        assert main(["push", str(package), str(folder), f"our-group/Alloy:{version}"]) == 0
    assert json.loads(Answer(address, ASKED).text)["newerVersionId"] == "our-group/Alloy:1.10"


def test_parts_of_files_are_sent_to_who_asks_for_them(address: str, package: Path) -> None:
    content = package.read_bytes()
    size = len(content)
    whole = Answer(address, FILE)
    tag = whole.headers["ETag"]
    assert (whole.status, whole.content) == (200, content)
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert tag == f'"{file_digest(package)}"'
    for wanted, first, last in (
        ("bytes=1000-", 1000, size - 1),
        ("bytes=0-0", 0, 0),
        (f"bytes=5-{2 * size}", 5, size - 1),
    ):
        part = Answer(address, FILE, Range=wanted, If_Range=tag)
        assert (part.status, part.content) == (206, content[first : last + 1])
        assert part.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
        assert part.headers["ETag"] == tag


@pytest.mark.parametrize("wanted", ["bytes=-5", "bytes=0-1,5-6", "lines=1-", "bytes=a-", "bytes=-"])
def test_what_is_no_range_that_is_known_gets_all_of_the_file(
    address: str, package: Path, wanted: str
) -> None:
    found = Answer(address, FILE, Range=wanted)
    assert (found.status, len(found.content)) == (200, package.stat().st_size)


def test_file_that_changed_is_sent_as_a_whole(address: str, package: Path) -> None:
    found = Answer(address, FILE, Range="bytes=1000-", If_Range='"another"')
    assert (found.status, found.content) == (200, package.read_bytes())


def test_part_behind_the_end_is_refused(address: str, package: Path) -> None:
    size = package.stat().st_size
    found = Answer(address, FILE, Range=f"bytes={size}-")
    assert (found.status, found.content) == (416, b"")
    assert found.headers["Content-Range"] == f"bytes */{size}"


def test_head_has_no_body_and_nothing_is_written(address: str, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for path in ("/", ASKED, FILE, "/nowhere"):
        parts = urlsplit(address)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
        for method in ("HEAD", "GET"):  # on one connection: a body would be taken for an answer
            connection.request(method, path)
            response = connection.getresponse()
            assert response.status == (404 if path == "/nowhere" else 200)
            assert bool(response.read()) == (method == "GET")
        connection.close()
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert Answer(address, FILE, method).status == 405
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_file_that_is_replaced_is_seen_at_once(
    address: str, folder: Path, package: Path, tmp_path: Path
) -> None:
    before = json.loads(Answer(address, ASKED).text)["artifact"]["identity"]
    other = tmp_path / "other.nequip.zip"
    assert main(["card", str(package), str(other), "--set", "name=Other"]) == 0
    shutil.move(other, folder / "our-group" / "Alloy" / "1.0.nequip.zip")
    assert json.loads(Answer(address, ASKED).text)["artifact"]["identity"] != before


def test_damaged_package_is_not_served(address: str, folder: Path, package: Path) -> None:
    file = folder / "our-group" / "Alloy" / "1.0.nequip.zip"
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert Answer(address, ASKED).status == Answer(address, FILE).status == 500
    assert "The package is damaged." in Answer(address, "/").text


@pytest.mark.parametrize(
    "path",
    [
        "/files/../../secret.nequip.zip",
        "/files/%2e%2e/%2e%2e/secret.nequip.zip",
        "/files/our-group/link/1.nequip.zip",
        "/files/our-group/Alloy/",
        "/api/models/download/..%2F..%2Fsecret:1",
        "/api/models/download/a%2Fb%3A9",
        "/models/our-group",
        "/models/..",
        "/models/our-group/link",
        "/elsewhere",
    ],
)
def test_nothing_outside_the_folder_is_served(
    address: str, folder: Path, package: Path, path: str
) -> None:
    shutil.copyfile(package, folder.parent / "secret.nequip.zip")
    (folder / "our-group" / "link").mkdir()
    (folder / "our-group" / "link" / "1.nequip.zip").symlink_to(folder.parent / "secret.nequip.zip")
    assert Answer(address, path).status == 404


class Page(HTMLParser):
    """Elements, links and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


OWN_ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "p", "nav", "a",
    "section", "article", "dl", "dt", "dd", "bdi", "code", "details", "summary",
}  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/models/our-group/Evil"])
def test_cards_are_text_and_nothing_else(
    address: str, folder: Path, package: Path, path: str
) -> None:
    card = {
        "name": "<img src=x onerror=alert(1)>",
        "description": "</p></article><script>alert(1)</script> \u202e backwards",
        "license": '" onload=alert(1) x="',
        "training": {"long": "A" * 5000},
        "</dt><b onclick=x>key</b>": "'\"><svg onload=alert(1)> \ud800",
    }
    evil = folder.parent / "evil.nequip.zip"
    # Not by the command, which refuses some of it.
    write_with_members(PackageReader(package), evil, {CARD_MEMBER: json.dumps(card).encode()})
    assert main(["push", str(evil), str(folder), "our-group/Evil:1"]) == 0
    answer = Answer(address, path)
    found = Page(answer.text)
    assert set(found.elements) <= OWN_ELEMENTS
    assert not [key for key, _ in found.attributes if key.startswith("on")]
    assert "<img src=x onerror=alert(1)>" in found.text
    assert "\u202e" not in found.text
    assert "A" * 1000 in found.text
    assert "A" * 3000 not in found.text
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_pages_need_nothing_from_elsewhere_and_their_links_lead_somewhere(
    address: str, folder: Path, package: Path
) -> None:
    for model in ("Alloy", "Other", "Third", "Fourth"):
        for version in ("1.0", "2.0"):
            assert main(["push", str(package), str(folder), f"our-group/{model}:{version}"]) == 0
    for path in ("/", "/models/our-group/Alloy"):
        text = Answer(address, path).text
        found = Page(text)
        assert not {"script", "img", "link", "iframe", "object"} & set(found.elements)
        assert "url(" not in text
        assert "@import" not in text
        links = [value for key, value in found.attributes if key in ("href", "src")]
        assert links
        for link in links:
            target = urljoin(f"{address}{path}", link)
            assert target.startswith(address), link
            assert Answer(address, urlsplit(target).path).status == 200, link


def test_page_shows_the_newest_release_first(address: str, folder: Path, package: Path) -> None:
    for version in ("1.9", "1.10", "2.0rc1"):
        assert main(["push", str(package), str(folder), f"our-group/Alloy:{version}"]) == 0
    for path, elements in (("/", {"details"}), ("/models/our-group/Alloy", set())):
        found = Page(Answer(address, path).text)
        ids = [value for key, value in found.attributes if key == "id"]
        assert ids == [f"our-group/Alloy:{one}" for one in ("1.10", "1.9", "1.0", "2.0rc1")]
        assert {"details"} & set(found.elements) == elements
        for name in ids:
            assert f"nequip.net:{name}" in found.text


def test_empty_repository_has_a_page(serve: Callable[..., str], folder: Path) -> None:
    shutil.rmtree(folder / "our-group")
    assert "There is no model here yet." in Answer(serve(), "/").text


def test_server_behind_another_one_names_its_public_address(
    serve: Callable[..., str], package: Path
) -> None:
    address = serve("--url", "https://models.example.org/nequip/")
    found = json.loads(Answer(address, ASKED).text)
    assert found["artifact"]["downloadUrl"] == f"https://models.example.org/nequip{FILE}"
    assert found["artifact"]["hostName"] == "models.example.org/nequip"
    assert found["webUrl"].startswith("https://models.example.org/nequip/models/our-group/Alloy")


@pytest.mark.parametrize(
    "arguments", [["--url", "example.org"], ["--port", "99999"], ["--port", "-1"], ["--port", "x"]]
)
def test_wrong_usage_is_told(
    folder: Path, arguments: list[str], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["serve", str(folder), *arguments])
    assert stopped.value.code == 2
    assert f"'{arguments[1]}' is no " in capsys.readouterr().err


def test_place_that_is_taken_is_one_clear_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("waitress")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = subprocess.run(
            [*SERVE, str(folder), "--port", port], capture_output=True, text=True
        )
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith(f"error: cannot listen at 127.0.0.1:{port}: ")
    assert main(["serve", str(tmp_path / "none")]) == 1
    assert "no folder" in capsys.readouterr().err


def test_clients_are_told_what_they_can_ask(folder: Path) -> None:
    pytest.importorskip("waitress")
    command = [*SERVE, str(folder), "--port", "0"]
    for arguments, told in (
        ([], "for clients: NEQUIP_REPOSITORY=http://127.0.0.1:"),
        (["--host", "0.0.0.0"], "clients take plain http from their own machine only"),
        (
            ["--host", "0.0.0.0", "--url", "https://a.example"],
            "NEQUIP_REPOSITORY=https://a.example",
        ),
    ):
        with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            assert server.stderr.readline().startswith("serving ")
            assert told in server.stderr.readline()
            server.kill()


def test_client_continues_at_our_server(
    address: str, own_cache: Path, package: Path, monkeypatch: Any
) -> None:
    """The part is one that broke off: written here, because a server cannot be made to break."""
    from nequip_core.repository.names import parse_reference

    part = own_cache / "parts" / f"{parse_reference(NAME).key}.nequip.zip"
    part.parent.mkdir(parents=True)
    part.write_bytes(package.read_bytes()[:50000])
    listed = json.loads(Answer(address, ASKED).text)["artifact"]
    mark = {"address": listed["downloadUrl"], "sha256": listed["sha256"], "size": listed["size"]}
    part.with_name(f"{part.name}.json").write_text(json.dumps(mark | {"tag": ""}))
    from nequip_core.repository.transfer import Transfer

    written: list[int] = []
    original = Transfer._write

    def counting(self: Any, response: Any, *arguments: Any) -> None:
        written.append(int(response.headers["Content-Length"]))
        original(self, response, *arguments)

    monkeypatch.setattr(Transfer, "_write", counting)
    assert local_file(NAME).read_bytes() == package.read_bytes()
    assert written == [package.stat().st_size - 50000]
