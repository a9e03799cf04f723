"""The cache: several processes at once, what is pruned, other folders, no cache at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nequip_core.digests import file_digest
from nequip_core.errors import DownloadError
from nequip_core.repository import cache as cache_module
from nequip_core.repository.cache import ModelCache
from nequip_core.repository.names import parse_name
from nequip_core.repository.settings import cache_folder
from nequip_core.saved_model import local_file

pytest.importorskip("requests")
filelock = pytest.importorskip("filelock")

NAME = "nequip.net:our-group/Alloy:1.0"
ALLOY = parse_name("our-group/Alloy:1.0")
FETCH = "import sys; from nequip_core.saved_model import local_file; print(local_file(sys.argv[1]))"
FETCH_ON_WORD = f"import sys; print('ready', flush=True); sys.stdin.readline(); {FETCH[12:]}"


def test_eight_processes_download_once(server: Any, alloy: Any) -> None:
    server.lists(**alloy.stated)

    def slow(handler: Any) -> None:
        time.sleep(1.0)  # all of the others are waiting then
        server.sends(alloy.content)(handler)

    server.answers["/file"] = slow
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FETCH_ON_WORD, NAME],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 8
    assert outputs == {f"{cache_folder() / 'packages' / alloy.identity}.nequip.zip\n"}
    assert len(server.asked_for()) == 1
    assert len(server.asked) == 2


def test_who_waits_long_is_told(
    server: Any, alloy: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_SECONDS_UNTIL_NOTICE", 0.1)
    server.serves(alloy)
    cache = ModelCache(cache_folder())
    thread = threading.Thread(target=local_file, args=(NAME,))
    with cache.locked(ALLOY):
        thread.start()
        end = time.monotonic() + 20
        while "waiting for another process" not in caplog.text and time.monotonic() < end:
            time.sleep(0.01)
        assert server.asked == []
    thread.join(20)
    assert "waiting for another process, which is fetching 'our-group/Alloy:1.0'" in caplog.text
    assert cache.find(ALLOY) is not None


def test_prune_leaves_a_download_that_another_process_is_at(
    server: Any, alloy: Any, cached: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.lists(**alloy.stated)
    go_on = threading.Event()

    def pausing(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(alloy.content)))
        handler.end_headers()
        handler.wfile.write(alloy.content[:100000])
        go_on.wait(60)
        handler.wfile.write(alloy.content[100000:])

    server.answers["/file"] = pausing
    with subprocess.Popen([sys.executable, "-c", FETCH, NAME], stdout=subprocess.PIPE) as process:
        end = time.monotonic() + 30
        while not cached.parts or cached.parts[0].stat().st_size < 90000:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert ModelCache(cached.folder).prune(everything=True) == []
        assert "another process is downloading it" in caplog.text
        assert cached.parts
        go_on.set()
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(server.asked_for()) == 1
    assert cached.names == {"our-group/Alloy:1.0": alloy.identity}


def test_package_and_name_come_together_for_prune(alloy: Any, cached: Any) -> None:
    """Neither a package whose name is about to be written is pruned, nor is one put while."""
    cache = ModelCache(cached.folder)
    lock = cached.folder / "locks" / "packages.lock"
    lock.parent.mkdir(parents=True)
    (cached.folder / "packages").mkdir()
    orphan = cached.folder / "packages" / f"{'0' * 64}.nequip.zip"
    orphan.write_bytes(b"no name stands for this")
    for action in (lambda: cache.prune(), lambda: cache.add(alloy.path, ALLOY)):
        thread = threading.Thread(target=action)
        with filelock.FileLock(lock):
            thread.start()
            thread.join(0.5)
            assert thread.is_alive()
            assert cached.names == {}
        thread.join(20)
        assert not thread.is_alive()
    assert not orphan.exists()
    assert cached.packages == [alloy.identity]
    assert cache.prune() == []
    assert [path.name for path, _ in cache.prune(everything=True)] == [
        f"{alloy.identity}.nequip.zip"
    ]
    assert cached.names == {"our-group/Alloy:1.0": alloy.identity}


def test_prune_removes_what_is_left_of_downloads(server: Any, alloy: Any, cached: Any) -> None:
    server.lists()
    server.answers["/file"] = server.sends(
        alloy.content[:100000], Content_Length=str(len(alloy.content)), ETag='"a"'
    )
    with pytest.raises(DownloadError):
        local_file(NAME)
    assert cached.parts
    removed = ModelCache(cached.folder).prune()
    assert sum(size for _, size in removed) > 90000
    assert not list((cached.folder / "parts").iterdir())


def test_hand_placed_model_never_touches_the_network(server: Any, alloy: Any, other: Any) -> None:
    ModelCache(cache_folder()).add(alloy.path, ALLOY, "by hand")
    server.serves(other)
    assert local_file(NAME).read_bytes() == alloy.content
    assert server.asked == []


def test_read_only_cache_is_read(alloy: Any, cached: Any) -> None:
    ModelCache(cached.folder).add(alloy.path, ALLOY)
    shutil.rmtree(cached.folder / "locks")
    before = sorted(cached.folder.rglob("*"))
    assert local_file(NAME).read_bytes() == alloy.content
    assert sorted(cached.folder.rglob("*")) == before


def test_cache_that_cannot_be_written_is_said(
    server: Any, alloy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serves(alloy)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NEQUIP_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match=r"cannot be kept in '.*/file/cache'"):
        local_file(NAME)
    assert server.asked == []


def test_cache_is_in_the_users_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NEQUIP_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder() == tmp_path / "caches" / "nequip" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / "home" / ".cache" / "nequip" / "models"


def place_older(folder: Path, package: Any) -> Path:
    """Put a file where the implementation nequip keeps it, with its record."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "abc.nequip.zip"
    shutil.copyfile(package.path, file)
    recorded = {"model_id": "our-group/Alloy:1.0", "file_sha256": file_digest(file)}
    (folder / "abc.metadata.json").write_text(json.dumps(recorded))
    return file


def test_models_of_the_older_cache_are_read(tmp_path: Path, server: Any, other: Any) -> None:
    file = place_older(tmp_path / "home" / ".nequip" / "model_cache", other)
    assert local_file(NAME) == file
    assert server.asked == []


def test_models_of_nequip_in_a_folder_for_both_are_read(cached: Any, other: Any) -> None:
    file = place_older(cached.folder, other)
    assert local_file(NAME) == file


def test_damaged_file_of_the_older_cache_is_not_used(
    tmp_path: Path, server: Any, alloy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    file = place_older(tmp_path / "home" / ".nequip" / "model_cache", alloy)
    file.write_bytes(file.read_bytes()[:-1])
    server.serves(alloy)
    assert local_file(NAME) != file
    assert "not as recorded" in caplog.text


def test_older_cache_does_not_change_what_a_name_stands_for(
    tmp_path: Path, server: Any, alloy: Any, other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.serves(alloy)
    local_file(NAME)
    ModelCache(cache_folder()).prune(everything=True)
    place_older(tmp_path / "home" / ".nequip" / "model_cache", other)
    assert local_file(NAME).read_bytes() == alloy.content
    assert "is another package than before" in caplog.text


def test_without_a_cache_nothing_is_read_or_kept(
    server: Any, alloy: Any, other: Any, cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ModelCache(cached.folder).add(other.path, ALLOY)
    before = sorted(cached.folder.rglob("*"))
    server.serves(alloy)
    read = f"open({str(alloy.path)!r}, 'rb').read()"
    code = f"{FETCH}; print(open(local_file(sys.argv[1]), 'rb').read() == {read})"
    environment = {**os.environ, "NEQUIP_NO_CACHE": "yes"}
    command = [sys.executable, "-c", code, NAME]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    path, same = done.stdout.split()
    assert same == "True"
    assert not Path(path).exists()
    assert not Path(path).parents[1].exists()
    assert sorted(cached.folder.rglob("*")) == before
    assert len(server.asked_for()) == 1  # once a process
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert len(server.asked_for()) == 2


def test_damaged_record_of_a_name_is_no_record(
    server: Any, alloy: Any, cached: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.serves(alloy)
    local_file(NAME)
    (record,) = (cached.folder / "names").iterdir()
    for content in (b"", b"{", b"[]", b'{"name": 1}', b"\xff" * 10, b" " * 2**17):
        record.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            assert local_file(NAME).read_bytes() == alloy.content
    assert cached.names == {"our-group/Alloy:1.0": alloy.identity}
