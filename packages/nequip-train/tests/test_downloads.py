"""Downloads: checked, whole or not at all, and nowhere else than asked for."""

from __future__ import annotations

import hashlib
import http.server
import io
import multiprocessing
import ssl
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from nequip_core.errors import DataError, MissingFileError
from nequip_train.data import downloads
from nequip_train.data.downloads import Source, fetch


def zipped(members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return content.getvalue()


def tarred(members, mode="w:gz"):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, value in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(value)
            archive.addfile(info, io.BytesIO(value))
    return content.getvalue()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.asked = []

    def source(self, content, file="data.zip", **arguments):
        self.files[f"/{file}"] = content
        digest = hashlib.sha256(content).hexdigest()
        return Source(self.address(file), file, **{"sha256": digest, **arguments})

    def address(self, file):
        return f"http://127.0.0.1:{self.server_port}/{file}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        if isinstance(content, str):
            self.send_response(302)
            self.send_header("Location", content)
            self.end_headers()
            return
        self.send_response(200)
        cut = self.path.startswith("/cut")
        self.send_header("Content-Length", str(len(content) + 100 * cut))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


MEMBERS = {"top/a/x.xyz": b"1", "top/y.xyz": b"22", "top/other": b"3"}


@pytest.mark.parametrize(
    "content",
    [zipped(MEMBERS), tarred(MEMBERS), tarred(MEMBERS, "w:bz2"), tarred(MEMBERS, "w")],
    ids=["zip", "gz", "bz2", "tar"],
)
def test_the_files_of_an_archive_come_into_the_folder_and_nothing_else(server, tmp_path, content):
    source = server.source(content)
    for _ in range(2):
        fetch(source, str(tmp_path / "new" / "data"), ["a/x.xyz", "y.xyz"])
    assert tree(tmp_path) == ["new/data/a/x.xyz", "new/data/y.xyz"]
    assert (tmp_path / "new/data/a/x.xyz").read_bytes() == b"1"
    assert server.asked == ["/data.zip"]


def test_an_archive_in_an_archive_is_opened(server, tmp_path):
    source = server.source(
        zipped({"inner.tar.bz2": tarred(MEMBERS, "w:bz2")}), inside="inner.tar.bz2"
    )
    fetch(source, str(tmp_path), ["a/x.xyz"])
    assert tree(tmp_path) == ["a/x.xyz"]


def test_a_single_file_needs_no_archive(server, tmp_path):
    fetch(server.source(b"3\n", "water.xyz"), str(tmp_path), ["water.xyz"])
    assert tree(tmp_path) == ["water.xyz"]


def test_an_archive_put_there_by_hand_is_used_without_a_network(tmp_path):
    (tmp_path / "data.zip").write_bytes(zipped(MEMBERS))
    fetch(Source("https://127.0.0.1:1/data.zip", "data.zip"), str(tmp_path), ["y.xyz"])
    assert tree(tmp_path) == ["data.zip", "y.xyz"]


def test_files_that_are_there_are_left_alone(tmp_path):
    (tmp_path / "y.xyz").write_bytes(b"mine")
    fetch(Source("https://127.0.0.1:1/data.zip", "data.zip"), str(tmp_path), ["y.xyz"])
    assert (tmp_path / "y.xyz").read_bytes() == b"mine" and tree(tmp_path) == ["y.xyz"]


def test_without_a_network_the_way_by_hand_is_told(tmp_path):
    message = (
        r"https://127.0.0.1:1/data.zip cannot be downloaded \(.*\); without a network, download "
        rf"https://127.0.0.1:1/data.zip by hand, put it at '{tmp_path}/data.zip', and start again"
    )
    with pytest.raises(MissingFileError, match=message):
        fetch(Source("https://127.0.0.1:1/data.zip", "data.zip"), str(tmp_path), ["y.xyz"])
    assert tree(tmp_path) == [".data.zip.lock"] or tree(tmp_path) == []


def test_what_only_people_may_download_is_told(tmp_path):
    source = Source("https://127.0.0.1:1/x", "x.tar", by_hand=True)
    with pytest.raises(MissingFileError, match="cannot be downloaded automatically: download http"):
        fetch(source, str(tmp_path), ["y.xyz"])


def test_another_checksum_is_refused_and_nothing_is_kept(server, tmp_path):
    source = server.source(zipped(MEMBERS), sha256="0" * 64)
    with pytest.raises(DataError, match=f"has the sha256 [0-9a-f]{{64}}, expected {'0' * 64}"):
        fetch(source, str(tmp_path), ["y.xyz"])
    assert [name for name in tree(tmp_path) if "lock" not in name] == []


def test_an_open_connection_needs_a_checksum(server, tmp_path):
    source = server.source(zipped(MEMBERS), sha256=None)
    with pytest.raises(MissingFileError, match="neither https nor has a known checksum"):
        fetch(source, str(tmp_path), ["y.xyz"])
    assert server.asked == []


def test_a_redirection_leaves_no_secure_connection():
    handler = downloads._SafeRedirects()
    request = downloads.urllib.request.Request("https://127.0.0.1/data.zip")
    arguments = (request, None, 302, "Found", {})
    secure = handler.redirect_request(*arguments, "https://127.0.0.1/other.zip")
    assert secure.full_url == "https://127.0.0.1/other.zip"
    with pytest.raises(OSError, match=r"redirected to 'http://127.0.0.1/x', which is not https"):
        handler.redirect_request(*arguments, "http://127.0.0.1/x")


def test_certificates_are_verified():
    (handler,) = (
        handler
        for handler in downloads._secure_opener().handlers
        if isinstance(handler, downloads.urllib.request.HTTPSHandler)
    )
    assert handler._context.check_hostname
    assert handler._context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("file", ["cut.zip", "missing.zip"])
def test_a_failed_download_leaves_nothing(server, tmp_path, file):
    source = server.source(zipped(MEMBERS), file)
    if file == "missing.zip":
        server.files.clear()
    with pytest.raises(MissingFileError, match=f"{file} cannot be downloaded"):
        fetch(source, str(tmp_path), ["y.xyz"])
    assert [name for name in tree(tmp_path) if "lock" not in name] == []


def test_names_that_lead_elsewhere_are_not_followed(server, tmp_path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("../outside", "/tmp/outside-of-everything", "top/y.xyz"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("a/x.xyz")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    source = server.source(content.getvalue(), "evil.tar")
    folder = tmp_path / "data"
    fetch(source, str(folder), ["y.xyz"])
    assert tree(tmp_path) == ["data/y.xyz"]
    assert not Path("/tmp/outside-of-everything").exists()
    with pytest.raises(DataError, match=r"has no file of the name 'a/x.xyz', expected one"):
        fetch(source, str(folder), ["a/x.xyz"])
    assert not (folder / "a").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"b.xyz": b""}, r"no file of the name 'y.xyz', expected one \(it has b.xyz\)"),
        ({"1/y.xyz": b"", "2/y.xyz": b""}, "2 files of the name 'y.xyz'"),
        ({"my.xyz": b""}, "no file of the name 'y.xyz'"),
    ],
)
def test_an_archive_without_the_files_is_told(server, tmp_path, members, message):
    with pytest.raises(DataError, match=message):
        fetch(server.source(zipped(members)), str(tmp_path), ["y.xyz"])


@pytest.mark.parametrize("content", [b"<html>sign in</html>", zipped(MEMBERS)[:-30]])
def test_what_is_no_archive_is_told(server, tmp_path, content):
    with pytest.raises(DataError, match=r"neither a zip nor a tar file|cannot be unpacked"):
        fetch(server.source(content), str(tmp_path), ["a/x.xyz", "y.xyz"])
    assert [name for name in tree(tmp_path) if "lock" not in name] == []


def test_a_damaged_member_is_told_and_leaves_nothing(server, tmp_path):
    content = bytearray(zipped({"y.xyz": b"1234567890" * 20}))
    content[60] ^= 255
    with pytest.raises(DataError, match=r"cannot be unpacked: Bad CRC-32"):
        fetch(server.source(bytes(content)), str(tmp_path), ["y.xyz", "y.xyz"])
    assert [name for name in tree(tmp_path) if "lock" not in name] == []


def test_processes_that_need_the_same_files_download_them_once(server, tmp_path):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    source = server.source(zipped({"y.xyz": b"1" * 10**6}))
    arguments = (source, str(tmp_path), ["y.xyz"])
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert server.asked == ["/data.zip"] and (tmp_path / "y.xyz").stat().st_size == 10**6


def test_progress_is_shown_on_a_terminal_only(server, tmp_path, monkeypatch, capsys):
    source = server.source(zipped(MEMBERS))
    fetch(source, str(tmp_path / "quiet"), ["y.xyz"])
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    fetch(source, str(tmp_path / "shown"), ["y.xyz"])
    shown = capsys.readouterr()
    assert shown.out == "" and "downloading" in shown.err
