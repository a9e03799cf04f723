"""Compiled kernels are kept by content, safely, and a missing compiler is no error."""

import ctypes
import json
import stat
import subprocess
import sys

import pytest

from nequip_kernels import compiler, libraries
from nequip_kernels.compiler import BuildError
from nequip_kernels.libraries import CACHE_VARIABLE, cache_folder, provide_libraries

ANSWER = 'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }\n'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of kernels that is empty."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def counted(monkeypatch):
    """The libraries that are compiled from here on."""
    made = []

    def build(command, source, library):
        made.append(library)
        compiler.build_library(command, source, library)

    monkeypatch.setattr(libraries, "build_library", build)
    return made


def test_a_library_is_compiled_once_and_says_so(cache, counted, capsys):
    first = provide_libraries({"a": ANSWER})["a"]
    assert ctypes.CDLL(str(first)).answer() == 42
    said = capsys.readouterr()
    assert said.err.startswith("compiling 1 kernel with ")
    assert said.err.endswith(" s\n")
    assert not said.out
    assert provide_libraries({"b": ANSWER})["b"] == first
    assert len(counted) == 1
    assert capsys.readouterr().err == ""


def test_what_decides_on_the_code_is_in_the_key(cache, monkeypatch, counted):
    found = {provide_libraries({"a": ANSWER})["a"]}
    found.add(provide_libraries({"a": ANSWER + "// other\n"})["a"])
    monkeypatch.setattr(libraries, "machine", lambda: {"processor": ["another"]})
    found.add(provide_libraries({"a": ANSWER})["a"])
    monkeypatch.setattr(libraries, "compiler_identity", lambda command: "g++ 99")
    found.add(provide_libraries({"a": ANSWER})["a"])
    monkeypatch.setattr(libraries, "flags", lambda: (*compiler.flags(), "-O1"))
    found.add(provide_libraries({"a": ANSWER})["a"])
    assert len(found) == len(counted) == 5


def test_folders_are_private_and_nothing_else_is_left(cache):
    library = provide_libraries({"a": ANSWER})["a"]
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(library.parent.stat().st_mode) == 0o700
    assert [one for one in cache.iterdir() if one.is_dir()] == [library.parent]
    assert "g++" in json.dumps(json.loads((library.parent / "key.json").read_text()))


@pytest.mark.parametrize("damage", ["changed", "key gone", "others can write"])
def test_a_library_that_is_not_what_was_kept_is_compiled_anew(cache, counted, damage):
    library = provide_libraries({"a": ANSWER})["a"]
    if damage == "changed":
        library.write_bytes(library.read_bytes()[:-1])
    elif damage == "key gone":
        (library.parent / "key.json").unlink()
    else:
        library.parent.chmod(0o770)
    again = provide_libraries({"a": ANSWER})["a"]
    assert len(counted) == 2
    assert ctypes.CDLL(str(again)).answer() == 42
    assert stat.S_IMODE(again.parent.stat().st_mode) == 0o700


def test_a_folder_that_others_can_write_to_is_not_used(cache, capsys):
    cache.mkdir()
    cache.chmod(0o777)
    library = provide_libraries({"a": ANSWER})["a"]
    assert cache not in library.parents
    assert "others can write to it" in capsys.readouterr().err
    assert not list(cache.iterdir())


@pytest.mark.parametrize("said", ["off", "0", ""])
def test_the_cache_can_be_switched_off(monkeypatch, said):
    monkeypatch.setenv(CACHE_VARIABLE, said)
    assert cache_folder() is None
    assert provide_libraries({"a": ANSWER})["a"].is_file()


def test_the_folder_follows_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "nequip" / "kernels"


def test_two_processes_compile_a_library_once(cache):
    program = (
        "from nequip_kernels import libraries, compiler\n"
        "def build(*given):\n"
        "    print('compiled', flush=True)\n"
        "    compiler.build_library(*given)\n"
        "libraries.build_library = build\n"
        f"print(libraries.provide_libraries({{'a': {ANSWER!r}}})['a'])\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate()[0].split() for process in processes]
    assert sum(words.count("compiled") for words in said) == 1
    assert len({words[-1] for words in said}) == 1


def test_a_missing_compiler_is_named(cache, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(BuildError, match="no C\\+\\+ compiler; install g\\+\\+"):
        provide_libraries({"a": ANSWER})


def test_what_a_failing_compiler_says_is_passed_on(cache, capsys):
    with pytest.raises(BuildError, match=r"error: .*nonsense"):
        provide_libraries({"a": "nonsense;\n"})
    assert capsys.readouterr().err.endswith("failed\n")
    assert not [one for one in cache.iterdir() if one.is_dir()]


def test_a_full_disk_is_said(cache, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(libraries, "build_library", refuse)
    with pytest.raises(BuildError, match="No space left"):
        provide_libraries({"a": ANSWER})
