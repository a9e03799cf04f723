"""The compile cache: what is taken from it, what is made anew, what is never used."""

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nequip_compile import command_cache
from nequip_compile.cache import failures, provision
from nequip_compile.cache.entries import ENTRY_NAME, Entry, entries, key_name
from nequip_compile.cache.folder import UnusableCacheError, cache_folder, usable_folder
from nequip_compile.cache.key import cache_key
from nequip_compile.cache.provision import compiled_file, provide
from nequip_compile.compilation import Compilation
from nequip_core.compile_targets import ASE, BATCH, PAIR_NEQUIP
from nequip_core.digests import file_digest
from nequip_core.errors import CompileError
from nequip_core.file_lock import locked


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("NEQUIP_COMPILE_CACHE", str(folder))
    return folder


@pytest.fixture
def compilation(tmp_path):
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"a model")
    return Compilation(path=path, digest=file_digest(path), name=path.name)


@pytest.fixture
def calls(monkeypatch):
    """In place of compiling: files that say what they were made from; the calls are counted."""
    made = []

    def compile_files(compilation, outputs):
        made.append([target.name for target in outputs.values()])
        for path, target in outputs.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{compilation.digest} {target.name}")

    monkeypatch.setattr(provision, "compile_files", compile_files)
    return made


def test_a_second_compilation_is_a_copy(cache, compilation, calls, tmp_path):
    first, second = tmp_path / "a.nequip.pt2", tmp_path / "b.nequip.pt2"
    assert provide(compilation, {first: ASE}) == {first: False}
    assert provide(compilation, {second: ASE}) == {second: True}
    assert calls == [["ase"]]
    assert first.read_bytes() == second.read_bytes()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert [path.name for path in cache.iterdir()] == [key_name(cache_key(compilation, ASE))]


def test_only_missing_targets_are_compiled_and_together(cache, compilation, calls, tmp_path):
    provide(compilation, {tmp_path / "a": ASE})
    outputs = {tmp_path / one.name: one for one in (ASE, BATCH, PAIR_NEQUIP)}
    assert list(provide(compilation, outputs).values()) == [True, False, False]
    assert calls == [["ase"], ["batch", "pair_nequip"]]
    for path, target in outputs.items():
        assert path.read_text().endswith(f" {target.name}")


def test_without_the_cache_nothing_is_taken_or_kept(cache, compilation, calls, tmp_path):
    for _ in range(2):
        assert provide(compilation, {tmp_path / "a": ASE}, use_cache=False) == {
            tmp_path / "a": False
        }
    assert len(calls) == 2
    assert not cache.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "0" * 64},
        {"name": "other.ckpt"},
        {"model_name": "other"},
        {"modifiers": ("enable_X",)},
        {"tf32": True},
        {"inductor_options": {"max_autotune": True}},
        {"trust_code": True},
        {"mode": "torchscript"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_a_file_follows_from_is_in_the_key(change, compilation):
    assert cache_key(dataclasses.replace(compilation, **change), ASE) != cache_key(compilation, ASE)


def test_targets_variables_and_code_are_in_the_key(compilation, monkeypatch):
    keys = [cache_key(compilation, target) for target in (ASE, BATCH)]
    monkeypatch.setenv("NEQUIP_SKIP_AOTI_MODEL_CHECK", "1")
    keys.append(cache_key(compilation, ASE))
    monkeypatch.delenv("NEQUIP_SKIP_AOTI_MODEL_CHECK")
    monkeypatch.setattr("nequip_compile.cache.key.source_digest", lambda name: "changed")
    keys.append(cache_key(compilation, ASE))
    assert len({key_name(key) for key in keys}) == 4
    assert {"nequip_core", "nequip_compile"} <= set(keys[0]["code"])


def test_a_file_that_a_checkpoint_refers_to_is_in_the_key(tmp_path, compilation):
    import torch

    base = tmp_path / "base.nequip.zip"
    base.write_bytes(b"first")
    config = {"_target_": "nequip.model.ModelFromPackage", "package_path": str(base)}
    torch.save({"hyper_parameters": {"model": config}}, compilation.path)
    key = cache_key(compilation, ASE)
    assert list(key["refers_to"]) == [str(base)]
    base.write_bytes(b"second")
    assert cache_key(compilation, ASE) != key


def test_a_damaged_entry_is_dropped_and_made_again(cache, compilation, calls, capsys):
    path, _ = compiled_file(compilation, ASE)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    again, earlier = compiled_file(compilation, ASE)
    assert not earlier
    assert len(calls) == 2
    assert "is not used and dropped" in capsys.readouterr().err
    assert again.read_text().endswith("ase")


def test_a_file_that_others_can_write_to_is_not_used(cache, compilation, calls):
    path, _ = compiled_file(compilation, ASE)
    path.chmod(0o666)
    assert compiled_file(compilation, ASE)[1] is False


def test_a_folder_that_others_can_write_to_is_not_used(cache, compilation, calls, capsys):
    cache.mkdir(mode=0o700)
    cache.chmod(0o777)
    with pytest.raises(UnusableCacheError, match="chmod go-w"):
        usable_folder()
    for _ in range(2):
        path, earlier = compiled_file(compilation, ASE)
        assert not earlier
        assert path.exists()
    assert "compiled models are not kept" in capsys.readouterr().err
    assert list(cache.iterdir()) == []


def test_a_place_that_is_no_folder_does_not_stop_compilation(
    compilation, calls, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEQUIP_COMPILE_CACHE", str(tmp_path / "file" / "cache"))
    provide(compilation, {tmp_path / "a": ASE})
    assert (tmp_path / "a").exists()
    assert "NEQUIP_COMPILE_CACHE" in capsys.readouterr().err


def test_a_full_file_system_does_not_stop_compilation(
    cache, compilation, calls, monkeypatch, capsys
):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(provision, "add_entry", full)
    path, earlier = compiled_file(compilation, ASE)
    assert path.read_text().endswith("ase")
    assert not earlier
    assert "is not kept: [Errno 28] No space left" in capsys.readouterr().err


def test_the_cache_is_in_the_users_cache_folder_unless_placed_elsewhere(monkeypatch):
    monkeypatch.delenv("NEQUIP_COMPILE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/nequip/compiled")
    monkeypatch.setenv("NEQUIP_COMPILE_CACHE", "off")
    assert cache_folder() is None


@pytest.fixture
def failing(monkeypatch):
    tries = []

    def compile_files(compilation, outputs):
        tries.append(1)
        raise CompileError(failing.text)

    failing.text = "AOTInductor failed\ndetails"
    monkeypatch.setattr(provision, "compile_files", compile_files)
    failing.tries = tries
    return failing


def test_a_failure_is_paid_for_once_a_day(cache, compilation, failing, monkeypatch):
    for _ in range(2):
        with pytest.raises(CompileError, match="AOTInductor failed"):
            compiled_file(compilation, ASE)
    assert len(failing.tries) == 1
    with pytest.raises(CompileError, match=r"failed \(so it was 0 min ago; .*prune --failures\)"):
        compiled_file(compilation, ASE)
    with pytest.raises(CompileError):
        compiled_file(compilation, ASE, retry=True)
    assert len(failing.tries) == 2
    monkeypatch.setattr("nequip_compile.cxx.compiler_identity", lambda: "another compiler")
    with pytest.raises(CompileError):
        compiled_file(compilation, ASE)
    assert len(failing.tries) == 3
    monkeypatch.setattr(failures, "LIFETIME", 0.0)
    with pytest.raises(CompileError):
        compiled_file(compilation, ASE)
    assert len(failing.tries) == 4


def test_a_full_disk_is_no_failure_to_remember(cache, compilation, failing):
    failing.text = "cannot write: No space left on device"
    for _ in range(2):
        with pytest.raises(CompileError):
            compiled_file(compilation, ASE)
    assert len(failing.tries) == 2


def test_no_compiler_is_said_without_trying(cache, compilation, calls, monkeypatch):
    monkeypatch.setattr("nequip_compile.cxx.compiler_identity", lambda: "")
    with pytest.raises(CompileError, match="needs a C"):
        compiled_file(compilation, ASE)
    assert calls == []


_ONE_OF_SEVERAL = """
import sys, time
from pathlib import Path
from nequip_compile.cache import provision
from nequip_compile.compilation import Compilation
from nequip_core.compile_targets import ASE

def compile_files(compilation, outputs):
    with Path(sys.argv[2]).open("a") as stream:
        stream.write("compiled\\n")
    time.sleep(2.0)
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("made")

provision.compile_files = compile_files
path, _ = provision.compiled_file(Compilation(Path(sys.argv[1]), "0" * 64, "model"), ASE)
sys.exit(path.read_text() != "made")
"""


def test_processes_that_ask_at_once_compile_once(cache, compilation, tmp_path):
    log = tmp_path / "log"
    words = [sys.executable, "-c", _ONE_OF_SEVERAL, str(compilation.path), str(log)]
    processes = [subprocess.Popen(words) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert log.read_text().splitlines() == ["compiled"]
    assert len(list(cache.iterdir())) == 1


def test_a_killed_holder_of_the_lock_blocks_nobody(tmp_path):
    path = tmp_path / "a.lock"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from nequip_core.file_lock import locked\n"
        "with locked(Path(sys.argv[1]), print): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert path.exists()
    waited = []
    with locked(path, lambda: waited.append(1)):
        pass
    assert waited == []
    assert not path.exists()


def test_an_interrupt_leaves_nothing(cache, compilation, monkeypatch, tmp_path):
    def interrupted(compilation, outputs):
        for path in outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(provision, "compile_files", interrupted)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(KeyboardInterrupt):
        provide(compilation, {tmp_path / "out" / "a": ASE})
    assert list(cache.iterdir()) == []
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_the_command_lists_and_verifies(cache, compilation, calls, capsys):
    assert command_cache.main(["list"]) == 0
    assert "0 compiled models" in capsys.readouterr().out
    path, _ = compiled_file(compilation, ASE)
    assert command_cache.main(["list"]) == 0
    assert "model.ckpt ase cpu torch" in capsys.readouterr().out
    assert command_cache.main(["list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["entries"]
    assert row["file"] == str(path)
    assert row["key"]["target"]["outputs"] == list(ASE.outputs)
    assert command_cache.main(["verify"]) == 0
    path.write_text("other")
    assert command_cache.main(["verify"]) == 1
    assert "damaged: the SHA-256" in capsys.readouterr().out
    assert command_cache.main(["prune"]) == 0
    assert entries(cache) == []


def test_the_command_prunes_by_age_and_size(cache, compilation, calls):
    paths = [compiled_file(compilation, target)[0] for target in (ASE, BATCH, PAIR_NEQUIP)]
    for days, path in zip((9, 5, 0), paths, strict=True):
        then = time.time() - days * 86400
        os.utime(path.parent / ENTRY_NAME, (then, then))
    assert command_cache.main(["prune", "--older-than", "7"]) == 0
    assert [path.exists() for path in paths] == [False, True, True]
    size = paths[2].stat().st_size
    assert command_cache.main(["prune", "--larger-than", str(size)]) == 0
    assert [path.exists() for path in paths] == [False, False, True]
    assert command_cache.main(["prune", "--all"]) == 0
    assert list(cache.iterdir()) == []


def test_the_command_prunes_failures(cache, compilation, failing, capsys):
    with pytest.raises(CompileError):
        compiled_file(compilation, ASE)
    assert command_cache.main(["list"]) == 0
    assert "AOTInductor failed" in capsys.readouterr().out
    assert command_cache.main(["prune", "--failures"]) == 0
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    "words", [[], ["prune", "--older-than", "soon"], ["prune", "--larger-than", "big"]]
)
def test_wrong_usage_ends_with_code_2(words, cache, capsys):
    with pytest.raises(SystemExit) as end:
        command_cache.main(words)
    assert end.value.code == 2


def test_the_command_does_not_import_torch(cache):
    code = (
        "import sys; from nequip_compile.command_cache import main\n"
        "code = main(['list']) or main(['verify']) or main(['prune'])\n"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_an_entry_names_no_file_elsewhere(cache, compilation, calls):
    path, _ = compiled_file(compilation, ASE)
    content = json.loads((path.parent / ENTRY_NAME).read_text())
    (path.parent / ENTRY_NAME).write_text(json.dumps({**content, "file": "../../other"}))
    with pytest.raises(ValueError, match="elsewhere"):
        Entry(path.parent).checked_file()
