"""Downloads that break off, or whose process is killed: what is kept, and how it is continued."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nequip_core.errors import DownloadError
from nequip_core.repository import transfer
from nequip_core.saved_model import local_file

pytest.importorskip("requests")
pytest.importorskip("filelock")

NAME = "nequip.net:our-group/Alloy:1.0"
CHUNK = transfer._CHUNK
POINTS = 50


class Victims:
    """Starts processes that fetch a model, and kills them without warning.

    They are forks of one process that has imported everything, so that a kill comes while a model
    is fetched and not while Python starts.
    """

    CODE = """
import os, signal, sys, time
import filelock, requests
import nequip_core.repository.session
from nequip_core.repository.fetching import fetch_model
for line in sys.stdin:
    folder, seconds = line.rsplit(maxsplit=1)
    os.environ["NEQUIP_CACHE_DIR"] = folder
    child = os.fork()
    if child == 0:
        fetch_model(sys.argv[1])
        os._exit(0)
    if seconds == "wait":
        print("started", flush=True)
        sys.stdin.readline()
    else:
        time.sleep(float(seconds))
    os.kill(child, signal.SIGKILL)  # one that has ended is not gone before it is waited for
    print(os.WIFSIGNALED(os.waitpid(child, 0)[1]), flush=True)
"""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, NAME],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill_after(self, folder: Path, seconds: float) -> bool:
        """Return whether a process that fetches into a cache was still at it when it was killed."""
        return self.ask(f"{folder} {seconds:.6f}") == "True"

    def kill_when(self, folder: Path, is_reached: Callable[[], bool]) -> None:
        assert self.ask(f"{folder} wait") == "started"
        end = time.monotonic() + 30
        while not is_reached():
            assert time.monotonic() < end, "the point was not reached"
            time.sleep(0.001)
        assert self.ask("") == "True"


@pytest.fixture
def victims(server: Any) -> Iterator[Victims]:
    victims = Victims()
    yield victims
    victims.process.communicate(timeout=30)


def test_download_killed_at_50_bytes_goes_on_there(
    server: Any, alloy: Any, victims: Victims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.lists(**alloy.stated)
    content = alloy.content
    whole = server.parts_of(content)
    release = threading.Event()
    generator = random.Random(7)
    for number in range(POINTS):
        point = generator.randrange(CHUNK, len(content))
        kept = point // CHUNK * CHUNK  # what of a chunk had arrived is lost

        def stops(handler: Any, point: int = point) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content)))
            handler.send_header("ETag", '"a"')
            handler.end_headers()
            handler.wfile.write(content[:point])
            release.wait(30)
            handler.close_connection = True

        release.clear()
        server.answers["/file"] = stops
        cache = tmp_path / f"cache-{number}"
        part = cache / "parts"

        def is_reached(part: Path = part, kept: int = kept) -> bool:
            return any(one.stat().st_size == kept for one in part.glob("*.nequip.zip"))

        victims.kill_when(cache, is_reached)
        release.set()
        assert not list((cache / "packages").glob("*")), point
        assert not list((cache / "names").glob("*")), point
        (found,) = part.glob("*.nequip.zip")
        assert found.read_bytes() == content[:kept], point

        server.answers["/file"] = whole
        server.asked.clear()
        monkeypatch.setenv("NEQUIP_CACHE_DIR", str(cache))
        assert local_file(NAME).read_bytes() == content
        (asked,) = server.asked_for()
        assert (asked.range, asked.if_range) == (f"bytes={kept}-", '"a"'), point


def test_killed_at_50_moments_there_is_never_a_bad_entry(
    server: Any,
    alloy: Any,
    cached: Any,
    victims: Victims,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From before the first request until after the last file has its place."""
    server.lists(**alloy.stated)
    content = alloy.content

    def paced(handler: Any) -> None:
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        if start:
            handler.send_header("Content-Range", span)
        handler.end_headers()
        for first in range(start, len(content), CHUNK):
            handler.wfile.write(content[first : first + CHUNK])
            time.sleep(0.003)

    server.answers["/file"] = paced
    local_file(NAME)  # imports what is needed
    monkeypatch.setenv("NEQUIP_CACHE_DIR", str(tmp_path / "timed"))
    begin = time.monotonic()
    local_file(NAME)
    duration = time.monotonic() - begin
    generator = random.Random(11)
    latest = 1.5 * duration
    entries = set()
    for number in range(POINTS):
        cache = tmp_path / f"cache-{number}"
        was_killed = victims.kill_after(cache, generator.uniform(0, latest))
        latest *= 1.1 if was_killed else 0.8  # how fast the machine is changes
        monkeypatch.setenv("NEQUIP_CACHE_DIR", str(cache))
        entry = type(cached)(cache)
        entries.add((bool(entry.packages), bool(entry.names), bool(entry.parts)))
        for path in (cache / "packages").glob("*"):
            assert path.read_bytes() == content
        for identity in entry.names.values():
            assert entry.packages == [identity]
        assert local_file(NAME).read_bytes() == content
        assert not entry.parts
    assert (False, False, True) in entries  # in the middle of it
    assert (True, True, False) in entries  # after the end


def test_download_that_breaks_off_goes_on_at_once(server: Any, alloy: Any) -> None:
    half = 5 * CHUNK
    server.lists(**alloy.stated)
    server.answers["/file"] = server.parts_of(alloy.content, stop=half)
    assert local_file(NAME).read_bytes() == alloy.content
    assert [asked.range for asked in server.asked_for()] == [None, f"bytes={half}-"]


def break_off(server: Any, content: bytes, at: int, **headers: Any) -> None:
    """Let a download break off, again and again, and give up."""
    broken = server.sends(content[:at], Content_Length=str(len(content)), **headers)
    server.answers["/file"] = broken
    with pytest.raises(DownloadError, match="broke off"):
        local_file(NAME)
    server.asked.clear()


@pytest.fixture
def broken(server: Any, alloy: Any, cached: Any) -> int:
    """Return how many bytes there are of a download that broke off."""
    server.lists()
    kept = 4 * CHUNK
    break_off(server, alloy.content, kept + 100, ETag='"a"')
    (part,) = cached.parts
    assert part.stat().st_size == kept
    return kept


def test_error_says_what_is_kept(server: Any, alloy: Any) -> None:
    server.lists(**alloy.stated)
    server.answers["/file"] = server.sends(
        alloy.content[: 3 * CHUNK], Content_Length=str(len(alloy.content))
    )
    with pytest.raises(DownloadError, match=f"{3 * CHUNK} bytes are kept, the next attempt goes"):
        local_file(NAME)


def test_server_that_honours_ranges_sends_the_rest_only(
    server: Any, alloy: Any, broken: int
) -> None:
    server.answers["/file"] = server.parts_of(alloy.content)
    assert local_file(NAME).read_bytes() == alloy.content
    (asked,) = server.asked_for()
    assert (asked.range, asked.if_range) == (f"bytes={broken}-", '"a"')


def test_server_that_ignores_ranges_sends_all_of_it(server: Any, alloy: Any, broken: int) -> None:
    server.answers["/file"] = server.sends(alloy.content, ETag='"a"')
    assert local_file(NAME).read_bytes() == alloy.content
    assert [asked.range for asked in server.asked_for()] == [f"bytes={broken}-"]


def test_file_that_changed_in_between_is_fetched_anew(
    server: Any, other: Any, broken: int, cached: Any
) -> None:
    server.answers["/file"] = server.parts_of(other.content, tag='"b"')
    assert local_file(NAME).read_bytes() == other.content
    (asked,) = server.asked_for()
    assert asked.if_range == '"a"'
    assert not cached.parts


def test_part_of_another_file_is_not_put_behind_what_is_there(
    server: Any, other: Any, broken: int
) -> None:
    """From a server that honours ``Range`` and ignores ``If-Range``."""

    def careless(handler: Any) -> None:
        del handler.headers["If-Range"]
        server.parts_of(other.content, tag='"b"')(handler)

    server.answers["/file"] = careless
    assert local_file(NAME).read_bytes() == other.content
    assert [asked.range for asked in server.asked_for()] == [f"bytes={broken}-", None]


def test_another_part_than_the_one_asked_for_is_not_used(
    server: Any, alloy: Any, broken: int
) -> None:
    whole = server.sends(alloy.content)

    def elsewhere(handler: Any) -> None:
        if handler.headers.get("Range") is None:
            whole(handler)
            return
        span = f"bytes 0-{len(alloy.content) - 1}/{len(alloy.content)}"
        server.sends(alloy.content, status=206, ETag='"a"', Content_Range=span)(handler)

    server.answers["/file"] = elsewhere
    assert local_file(NAME).read_bytes() == alloy.content
    assert len(server.asked_for()) == 2


def test_part_that_is_longer_than_the_file_is_dropped(
    server: Any, alloy: Any, broken: int, cached: Any
) -> None:
    (part,) = cached.parts
    part.write_bytes(alloy.content + bytes(100))

    def answer(handler: Any) -> None:
        if handler.headers.get("Range"):
            server.sends(b"", status=416)(handler)
        else:
            server.sends(alloy.content)(handler)

    server.answers["/file"] = answer
    assert local_file(NAME).read_bytes() == alloy.content


def test_damaged_part_of_a_file_with_a_stated_digest_is_an_error_once(
    server: Any, alloy: Any, cached: Any
) -> None:
    server.lists(**alloy.stated)
    break_off(server, alloy.content, 4 * CHUNK)
    (part,) = cached.parts
    part.write_bytes(bytes(part.stat().st_size))
    server.answers["/file"] = server.parts_of(alloy.content, tag=None)
    with pytest.raises(DownloadError, match=r"is not the one that .* states"):
        local_file(NAME)
    assert cached.is_empty()
    assert local_file(NAME).read_bytes() == alloy.content


@pytest.mark.parametrize("tag", [None, 'W/"a"'])
def test_without_a_strong_tag_or_a_digest_nothing_is_continued(
    server: Any, alloy: Any, tag: str | None
) -> None:
    server.lists()
    break_off(server, alloy.content, 4 * CHUNK, ETag=tag)
    server.answers["/file"] = server.parts_of(alloy.content)
    assert local_file(NAME).read_bytes() == alloy.content
    assert [asked.range for asked in server.asked_for()] == [None]


def test_download_goes_on_at_another_repository_that_states_the_same_digest(
    server: Any, alloy: Any, new_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.lists(**alloy.stated)
    break_off(server, alloy.content, 4 * CHUNK, ETag='"a"')
    mirror = new_server()
    mirror.lists(**alloy.stated)
    mirror.answers["/file"] = mirror.parts_of(alloy.content, tag='"other"')
    monkeypatch.setenv("NEQUIP_REPOSITORY", mirror.base)
    assert local_file(NAME).read_bytes() == alloy.content
    (asked,) = mirror.asked_for()
    assert (asked.range, asked.if_range) == (f"bytes={4 * CHUNK}-", None)


def test_server_that_changes_its_tag_and_breaks_off_is_given_up(server: Any, alloy: Any) -> None:
    number = 0

    def unstable(handler: Any) -> None:
        nonlocal number
        number += 1
        tag = f'"{number}"'
        size = str(len(alloy.content))
        if handler.headers.get("Range"):
            server.sends(b"", status=206, ETag=tag, Content_Range="bytes 0-0/1")(handler)
        else:
            server.sends(alloy.content[: 4 * CHUNK], Content_Length=size, ETag=tag)(handler)

    server.lists()
    server.answers["/file"] = unstable
    with pytest.raises(DownloadError, match="broke off"):
        local_file(NAME)
    assert number < 20
