"""A server on this machine whose answers a test decides, and a cache of the test's own."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from nequip_core.archive.reader import PackageReader
from nequip_core.digests import file_digest
from nequip_core.repository import transfer
from nequip_core.repository.cache import ModelCache
from nequip_core.repository.settings import cache_folder

GOLDEN = Path(__file__).parents[4] / "tests" / "golden"
ENVIRONMENT = (
    "NEQUIP_NO_CACHE", "NEQUIP_REPOSITORY", "NEQUIP_TRUST_CODE", "HTTPS_PROXY", "HTTP_PROXY",
    "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)  # fmt: skip

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Package:
    """A package that the server may serve."""

    path: Path
    name: str = "our-group/Alloy:1.0"

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()

    @property
    def identity(self) -> str:
        return PackageReader(self.path).identity

    @property
    def stated(self) -> dict[str, Any]:
        """What a repository that states everything states of the file."""
        size = self.path.stat().st_size
        return {"sha256": file_digest(self.path), "size": size, "identity": self.identity}


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    path: str
    range: str | None
    if_range: str | None
    agent: str


@dataclass
class Server:
    """The server; ``file`` stands for the address of the model's file."""

    tls: ssl.SSLContext | None = None
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                get = self.headers.get
                outer.asked.append(
                    Asked(self.path, get("Range"), get("If-Range"), get("User-Agent", ""))
                )
                outer.answers.get(self.path, Server.missing)(self)

            def log_message(self, *unused: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *unused: Any) -> None:  # a client that was killed
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        if self.tls is not None:
            self.http.socket = self.tls.wrap_socket(self.http.socket, server_side=True)
        self.port = self.http.server_port
        self.base = f"http{'s' * (self.tls is not None)}://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
        self.thread.start()

    def lists(
        self, name: str = "our-group/Alloy:1.0", newer: str | None = None, **artifact: Any
    ) -> None:
        """Answer for a name with these facts of its file, which is at ``/file``."""
        content = {"modelId": name, "newerVersionId": newer}
        content["artifact"] = {"downloadUrl": "/file", **artifact}
        self.answers[f"/api/models/download/{quote(name, safe='')}"] = self.sends(
            json.dumps(content).encode()
        )

    def serves(self, package: Package, **stated: Any) -> None:
        """List a package and send its file."""
        self.lists(**stated)
        self.answers["/file"] = self.sends(package.content)

    def asked_for(self, path: str = "/file") -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path]

    def close(self) -> None:
        if self.thread.is_alive():
            self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    @staticmethod
    def missing(handler: BaseHTTPRequestHandler) -> None:
        Server.sends(b"", status=404)(handler)

    @staticmethod
    def sends(content: bytes, status: int = 200, **headers: str) -> Answer:
        """Return an answer with this content; `Content_Length` may lie, None leaves it out."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.close_connection = True
            always = {"Content_Length": str(len(content)), "Connection": "close"}
            for key, value in {**always, **headers}.items():
                if value is not None:
                    handler.send_header(key.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(content)

        return answer

    @staticmethod
    def redirects(target: str) -> Answer:
        return Server.sends(b"", status=302, Location=target)

    @staticmethod
    def parts_of(content: bytes, tag: str | None = '"a"', stop: int | None = None) -> Answer:
        """Return the answer of a server that honours ``Range`` and ``If-Range``.

        Args:
            content: the file.
            tag: its ``ETag``.
            stop: break off at this byte of the file, unless a later part is asked for.
        """

        def answer(handler: BaseHTTPRequestHandler) -> None:
            wanted = handler.headers.get("Range")
            same = handler.headers.get("If-Range", tag) == tag
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and same else 0
            end = len(content) if stop is None or stop <= start else stop
            headers = {"Content_Length": str(len(content) - start), "ETag": tag}
            if start:
                headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            Server.sends(content[start:end], status=206 if start else 200, **headers)(handler)

        return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setenv("NEQUIP_REPOSITORY", server.base)
    yield server
    server.close()


@pytest.fixture
def new_server() -> Iterator[Callable[..., Server]]:
    """Return the class of the server; those that are made are closed in the end."""
    made: list[Server] = []

    def make(**options: Any) -> Server:
        made.append(Server(**options))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture(scope="session")
def alloy() -> Package:
    return Package(GOLDEN / "format3-nequip-0.2.0" / "model.nequip.zip")


@pytest.fixture(scope="session")
def other() -> Package:
    """Return another package, of format 2."""
    return Package(GOLDEN / "format2-nequip-0.1.0" / "model.nequip.zip")


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a cache, a home and keys of its own, and no patience."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("NEQUIP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "_BACKOFF", 0.01)


@dataclass(frozen=True)
class Cached:
    """What is in the cache of the environment."""

    folder: Path

    @property
    def packages(self) -> list[str]:
        """Identities of the packages."""
        return sorted(path.name.partition(".")[0] for path in (self.folder / "packages").glob("*"))

    @property
    def names(self) -> dict[str, str]:
        """Names -> identities."""
        return {record.name: record.identity for record in ModelCache(self.folder).records()}

    @property
    def parts(self) -> list[Path]:
        """Unfinished downloads, without what says of what they are parts."""
        return sorted((self.folder / "parts").glob("*.nequip.zip"))

    def is_empty(self) -> bool:
        return not self.packages and not self.names


@pytest.fixture
def cached(surroundings: None) -> Cached:
    return Cached(cache_folder())


@pytest.fixture
def unshare() -> Callable[..., list[str]]:
    """Return a function that runs a command in namespaces of its own; skip where nobody may."""
    found = shutil.which("unshare")

    def start(flags: str) -> list[str]:
        command = [str(found), flags]
        if found is None or subprocess.run([*command, "true"], capture_output=True).returncode:
            pytest.skip("namespaces are not for this user")
        return command

    return start
