"""How a repository is reached: certificates, proxies, time-outs, second attempts, the bar."""

from __future__ import annotations

import datetime
import ipaddress
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nequip_core.errors import DownloadError
from nequip_core.repository import transfer
from nequip_core.repository.bar import DownloadBar
from nequip_core.saved_model import local_file

pytest.importorskip("requests")
pytest.importorskip("filelock")

x509 = pytest.importorskip("cryptography.x509")
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402

NAME = "nequip.net:our-group/Alloy:1.0"
HOST = "models.test"
"""A name of no machine: only a proxy can lead there."""


def certificate(name: str, key: Any, issuer: Any = None, issuer_key: Any = None) -> Any:
    """Return a certificate: of an authority where there is no issuer, else of a server."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    is_authority = issuer is None
    signer = key if issuer_key is None else issuer_key
    places = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName(HOST)]
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    usage |= {"encipher_only": False, "decipher_only": False, "crl_sign": is_authority}
    usage |= {"key_cert_sign": is_authority, "digital_signature": True}
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if not is_authority:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(purpose, critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(places), critical=False)
    return builder.sign(signer, hashes.SHA256())


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """Return the file of an authority's certificate, and what a server of it answers with."""
    folder = tmp_path_factory.mktemp("certificates")
    own, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = certificate("Our authority", own)
    leaf = certificate("Our server", other, root, own)
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(root.public_bytes(pem))
    key = other.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(leaf.public_bytes(pem) + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return folder / "authority.pem", context


@pytest.fixture
def secure(
    new_server: Any,
    authority: tuple[Path, ssl.SSLContext],
    alloy: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Return a repository behind TLS, with a certificate of the authority."""
    server = new_server(tls=authority[1])
    server.serves(alloy, **alloy.stated)
    monkeypatch.setenv("NEQUIP_REPOSITORY", server.base)
    return server


class Proxy:
    """A proxy for tunnels (``CONNECT``), all of which lead to one port of this machine."""

    def __init__(self, port: int, status: str = "200 OK") -> None:
        self.port = port
        self.status = status
        self.asked: list[str] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listening.accept()
            except OSError:
                return
            with client:
                head = b""
                while b"\r\n\r\n" not in head and (received := client.recv(4096)):
                    head += received
                if not head:
                    continue
                self.asked.append(head.split(b"\r\n")[0].decode())
                client.sendall(f"HTTP/1.1 {self.status}\r\n\r\n".encode())
                if self.status.startswith("200"):
                    with socket.create_connection(("127.0.0.1", self.port)) as target:
                        self.carry(client, target)

    @staticmethod
    def carry(client: socket.socket, target: socket.socket) -> None:
        other = {client: target, target: client}
        while True:
            for ready in select.select(list(other), [], [], 30)[0]:
                try:
                    content = ready.recv(2**16)
                    other[ready].sendall(content)
                except OSError:
                    return
                if not content:
                    return

    def close(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.thread.join()


@pytest.fixture
def new_proxy() -> Iterator[Callable[..., Proxy]]:
    made: list[Proxy] = []

    def make(*arguments: Any) -> Proxy:
        made.append(Proxy(*arguments))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


def test_certificate_that_nobody_vouches_for_is_refused(secure: Any, cached: Any) -> None:
    with pytest.raises(DownloadError, match=r"certificate verify failed.*REQUESTS_CA_BUNDLE"):
        local_file(NAME)
    assert secure.asked == []
    assert cached.is_empty()


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_certificates_of_the_environment_are_trusted(
    secure: Any,
    alloy: Any,
    authority: tuple[Path, ssl.SSLContext],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    monkeypatch.setenv(variable, str(authority[0]))
    assert local_file(NAME).read_bytes() == alloy.content


def test_certificate_of_another_host_is_refused(
    secure: Any, authority: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    monkeypatch.setenv("NEQUIP_REPOSITORY", f"https://localhost:{secure.port}")
    with pytest.raises(DownloadError, match=r"[Hh]ostname mismatch|doesn't match"):
        local_file(NAME)
    assert secure.asked == []


def test_file_of_certificates_that_is_not_there_is_said(
    secure: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(DownloadError, match=r"cannot be asked: .*none\.pem"):
        local_file(NAME)


def test_what_came_by_tls_does_not_lead_to_plain_http(
    secure: Any,
    server: Any,
    alloy: Any,
    authority: tuple[Path, ssl.SSLContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEQUIP_REPOSITORY", secure.base)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    server.answers["/file"] = server.sends(alloy.content)
    secure.answers["/file"] = secure.redirects(f"{server.base}/file")
    with pytest.raises(DownloadError, match="not followed"):
        local_file(NAME)
    secure.lists(downloadUrl=f"{server.base}/file")
    with pytest.raises(DownloadError, match="not fetched"):
        local_file(NAME)
    assert server.asked == []


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_proxy_of_the_environment_is_used(
    secure: Any,
    alloy: Any,
    authority: tuple[Path, ssl.SSLContext],
    new_proxy: Callable[..., Proxy],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    proxy = new_proxy(secure.port)
    monkeypatch.setenv(variable, proxy.address)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    monkeypatch.setenv("NEQUIP_REPOSITORY", f"https://{HOST}")
    assert local_file(NAME).read_bytes() == alloy.content
    assert {line.rpartition(" ")[0] for line in proxy.asked} == {f"CONNECT {HOST}:443"}


def test_hosts_of_no_proxy_are_asked_directly(
    secure: Any,
    alloy: Any,
    authority: tuple[Path, ssl.SSLContext],
    new_proxy: Callable[..., Proxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy = new_proxy(secure.port)
    monkeypatch.setenv("HTTPS_PROXY", proxy.address)
    monkeypatch.setenv("NO_PROXY", "example.org,127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    assert local_file(NAME).read_bytes() == alloy.content
    assert proxy.asked == []


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_server_on_this_machine_is_asked_past_every_proxy(
    server: Any,
    alloy: Any,
    new_proxy: Callable[..., Proxy],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    proxy = new_proxy(server.port)
    monkeypatch.setenv(variable, proxy.address)
    monkeypatch.setenv(variable.lower(), proxy.address)
    server.serves(alloy)
    assert local_file(NAME).read_bytes() == alloy.content
    assert proxy.asked == []


def test_proxy_that_refuses_is_said(
    secure: Any, new_proxy: Callable[..., Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = new_proxy(secure.port, "407 Proxy Authentication Required")
    monkeypatch.setenv("HTTPS_PROXY", proxy.address)
    with pytest.raises(DownloadError, match=r"cannot be reached: .*407 Proxy Authentication"):
        local_file(NAME)
    assert secure.asked == []


def test_host_that_is_not_there_is_one_clear_error(
    cached: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The domain is reserved for names that do not exist.
    monkeypatch.setenv("NEQUIP_REPOSITORY", "https://models.invalid")
    with pytest.raises(DownloadError, match=r"models\.invalid/.* cannot be reached: ") as found:
        local_file(NAME)
    assert len(str(found.value).splitlines()) == 1
    assert not caplog.text  # of libraries, about every attempt
    assert cached.is_empty()


def test_silent_server_is_left_after_a_while(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_TIMEOUT", (0.2, 0.2))
    awake = threading.Event()
    server.answers["/api/models/download/our-group%2FAlloy%3A1.0"] = lambda _: awake.wait(20)
    begin = time.monotonic()
    try:
        with pytest.raises(DownloadError, match=r"cannot be reached: .*[Rr]ead timed out"):
            local_file(NAME)
    finally:
        awake.set()
    assert time.monotonic() - begin < 10


def test_download_that_stands_still_is_continued(
    server: Any, alloy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_TIMEOUT", (1.0, 0.2))
    awake = threading.Event()
    whole = server.parts_of(alloy.content)

    def answer(handler: Any) -> None:
        if handler.headers.get("Range"):
            whole(handler)
            return
        size = str(len(alloy.content))
        server.sends(alloy.content[:50000], Content_Length=size, ETag='"a"')(handler)
        handler.wfile.flush()
        awake.wait(20)

    server.lists(**alloy.stated)
    server.answers["/file"] = answer
    try:
        assert local_file(NAME).read_bytes() == alloy.content
    finally:
        awake.set()
    assert [asked.range for asked in server.asked_for()] == [None, "bytes=49152-"]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return how long each wait would have been."""
    waits: list[float] = []
    clock = types.SimpleNamespace(sleep=waits.append, monotonic=time.monotonic)
    monkeypatch.setattr(transfer, "time", clock)
    monkeypatch.setattr(transfer, "_BACKOFF", 0.5)
    return waits


def test_busy_server_is_asked_again_and_every_time_later(
    server: Any, alloy: Any, slept: list[float]
) -> None:
    server.serves(alloy)
    good = server.answers["/file"]

    def busy(handler: Any) -> None:
        answer = good if len(server.asked_for()) == 4 else server.sends(b"", status=503)
        answer(handler)

    server.answers["/file"] = busy
    assert local_file(NAME).read_bytes() == alloy.content
    assert slept == [0.5, 1.0, 2.0]


def test_server_that_stays_busy_is_given_up(server: Any, cached: Any) -> None:
    server.answers["/api/models/download/our-group%2FAlloy%3A1.0"] = server.sends(b"", status=503)
    with pytest.raises(DownloadError, match="answers 503"):
        local_file(NAME)
    assert len(server.asked) == 4
    assert cached.is_empty()


@pytest.mark.parametrize(
    ("wanted", "waited"), [("7", 7), ("86400", 30), ("9" * 5000, 0.5), ("tomorrow", 0.5)]
)
def test_server_may_ask_for_patience_but_not_for_a_day(
    server: Any, alloy: Any, slept: list[float], wanted: str, waited: float
) -> None:
    server.serves(alloy)
    good = server.answers["/file"]

    def busy(handler: Any) -> None:
        again = len(server.asked_for()) > 1
        (good if again else server.sends(b"", status=429, Retry_After=wanted))(handler)

    server.answers["/file"] = busy
    assert local_file(NAME).read_bytes() == alloy.content
    assert slept == [waited]


FETCH = "import sys; from nequip_core.saved_model import local_file; local_file(sys.argv[1])"


def test_progress_is_drawn_on_a_terminal_and_nowhere_else(server: Any, alloy: Any) -> None:
    pty = pytest.importorskip("pty")
    server.serves(alloy)
    environment = {**os.environ, "NEQUIP_NO_CACHE": "1"}
    command = [sys.executable, "-c", FETCH, NAME]
    plain = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (plain.returncode, plain.stdout, plain.stderr) == (0, "", "")
    terminal, other_end = pty.openpty()
    with subprocess.Popen(command, env=environment, stderr=other_end) as process:
        os.close(other_end)
        drawn = b""
        try:
            while received := os.read(terminal, 4096):
                drawn += received
        except OSError:  # what the end of a terminal is on Linux
            pass
        os.close(terminal)
    assert process.returncode == 0
    assert b"our-group/Alloy:1.0 [" in drawn
    assert b" of 0.2 MB" in drawn
    assert drawn.endswith(b" \r")  # nothing of it stays


def test_bar_grows_and_does_without_a_total(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        text = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

    terminal = Terminal()
    clock = iter(range(1, 100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with DownloadBar("model", terminal) as bar:
        bar.advance(10**6, 3 * 10**6)
        bar.advance(3 * 10**6, 3 * 10**6)
        bar.advance(10**6, None)
    first, second, third = terminal.text.split("\r")[1:4]
    assert first.count("#") == 10
    assert second.count("#") == 30
    assert third.split() == ["model", "1.0", "MB"]
