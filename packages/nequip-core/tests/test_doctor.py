"""The doctor: what it finds, what it calls broken, and that nothing it tries can end it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from nequip_core.doctor import toolchain
from nequip_core.doctor.command import main
from nequip_core.doctor.findings import (
    ABSENT,
    BROKEN,
    OK,
    SKIPPED,
    WARNING,
    Finding,
    Section,
    as_json,
    as_text,
    examined,
)
from nequip_core.doctor.folders import look_at_folders
from nequip_core.doctor.installed import (
    LAYERS,
    distributions_by_name,
    look_at_import_name,
    look_at_layers,
)
from nequip_core.doctor.isolation import Outcome, Probe, run_probes
from nequip_core.doctor.libraries import (
    BUILT_IN_BACKENDS,
    look_at_backends,
    look_at_devices,
    look_at_library,
    look_at_torch,
)
from nequip_core.doctor.offered import look_at_plugins
from nequip_core.doctor.variables import VARIABLES, look_at_variables

SOURCES = Path(__file__).parents[2]


def made_distribution(
    site: Path, name: str, version: str, requires: tuple[str, ...] = (), **files: str
) -> Distribution:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Requires-Dist: {text}" for text in requires]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")
    for file, text in files.items():
        (folder / file.replace("_txt", ".txt")).write_text(textwrap.dedent(text))
    return Distribution.at(folder)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules the probes can import."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    (folder / "crashing.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    (folder / "hanging.py").write_text("import time\ntime.sleep(600)\n")
    (folder / "leaving.py").write_text(
        "import os, sys\nsys.stderr.write('no driver\\n'); sys.stderr.flush(); os._exit(3)\n"
    )
    (folder / "talking.py").write_text("import os\nprint('{}')\nos.write(1, b'{}\\n')\n")
    (folder / "failing.py").write_text("raise RuntimeError('no such symbol')\n")
    return folder


def test_crash_hang_and_exit_of_a_probe_leave_the_others_alone(modules: Path) -> None:
    names = ["talking", "crashing", "json", "hanging", "leaving", "failing", "json"]
    seconds = {"hanging": 1.0}
    probes = [Probe("module", (name,), seconds.get(name, 60.0)) for name in names]
    talked, crashed, good, hung, left, failed, last = run_probes(probes)
    assert (talked.error, good.error, last.error) == ("", "", "")
    assert (crashed.error_type, crashed.error) == ("crash", "crashed with SIGSEGV")
    assert left.error == "ended the process with exit code 3: no driver"
    assert (failed.error_type, failed.error) == ("RuntimeError", "no such symbol")
    assert (hung.error_type, hung.error) == ("timeout", "no answer within 1 s")


def test_worker_that_cannot_start_is_an_outcome(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modules / "json").mkdir()
    (modules / "json" / "__init__.py").write_text("raise SystemExit('no json')\n")
    found = run_probes([Probe("module", ("re",)), Probe("module", ("re",))])
    assert [each.error for each in found] == ["ended the process with exit code 1: no json"] * 2


def test_neighbor_lists_of_all_backends_are_counted() -> None:
    found = run_probes([Probe("neighbors", (name, "cpu")) for name in BUILT_IN_BACKENDS])
    for (name, library), outcome in zip(BUILT_IN_BACKENDS.items(), found, strict=True):
        if importlib.util.find_spec(library) is None:
            assert outcome.error_type == "MissingDependencyError", name
        else:
            assert outcome.value == {"pairs": 28}, name


def test_table_of_backends_is_that_of_the_neighbor_lists() -> None:
    from nequip_core.neighbors import NEIGHBORLIST_BACKEND_OPTIONS

    assert set(BUILT_IN_BACKENDS) == set(NEIGHBORLIST_BACKEND_OPTIONS)


def test_wrong_neighbor_list_and_missing_required_backend_are_broken() -> None:
    outcome = Outcome("found 27 pairs in a crystal that has 28", "RuntimeError")
    found = by_name(look_at_backends(["vesin"], [outcome], {}))
    assert found["vesin"].state == found["torch"].state == BROKEN
    assert found["matscipy"].state == ABSENT
    assert found["matscipy"].advice == "pip install matscipy"


@pytest.mark.skipif(not toolchain.compiler_command(), reason="needs a C++ compiler")
def test_small_model_is_compiled_and_run_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (outcome,) = run_probes([Probe("compile", (), 500.0)])
    assert outcome.error == ""
    assert list(tmp_path.iterdir()) == []
    assert toolchain.look_at_aotinductor(outcome, compiler=True).state == OK


def test_layer_with_an_unsatisfied_pin_is_broken_and_names_it(tmp_path: Path) -> None:
    core = made_distribution(tmp_path, "nequip-core", "0.1.0")
    train = made_distribution(tmp_path, "nequip-train", "0.2.0", ("nequip-core>=0.2", "h5py>=3"))
    found = by_name(look_at_layers({"nequip-core": [core], "nequip-train": [train]}))
    assert found["nequip-train"].state == BROKEN
    assert "nequip-core>=0.2, found 0.1.0" in found["nequip-train"].text
    assert "h5py>=3, which is not installed" in found["nequip-train"].text
    assert 'pip install "h5py>=3"' in found["nequip-train"].advice
    assert found["nequip-core"].state == OK
    assert found["nequip-model"].state == ABSENT
    assert "./packages/nequip-model" in found["nequip-model"].advice


def test_requirements_of_extras_are_not_required(tmp_path: Path) -> None:
    core = made_distribution(tmp_path, "nequip-core", "0.2.0", ('ase>=3; extra == "ase"',))
    assert by_name(look_at_layers({"nequip-core": [core]}))["nequip-core"].state == OK


def test_layer_installed_twice_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("0.1.0", "0.2.0"):
        made_distribution(tmp_path / version, "nequip-model", version)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "0.1.0"), str(tmp_path / "0.2.0")])
    finding = by_name(look_at_layers(distributions_by_name()))["nequip-model"]
    assert finding.state == BROKEN
    assert "0.1.0" in finding.text and "0.2.0" in finding.text


def test_installed_layers_are_those_of_the_table() -> None:
    folders = {path.parent.name for path in SOURCES.glob("*/pyproject.toml")}
    # An extension is no layer: it is told by what it registers, as the published one is.
    assert folders - {"nequip-allegro"} == set(LAYERS)


def test_owner_of_the_import_name_is_told(tmp_path: Path) -> None:
    facade = made_distribution(tmp_path / "a", "nequip", "0.2.0", ("nequip-core>=0.2",))
    other = made_distribution(tmp_path / "b", "nequip", "0.19.1", ("e3nn",))
    fork = made_distribution(
        tmp_path / "c", "nequip-fork", "1.0", RECORD="nequip/__init__.py,,\nnequip/x.py,,\n"
    )
    assert look_at_import_name({"nequip": [facade]})[0].state == OK
    (beside,) = look_at_import_name({"nequip": [other]})
    assert (beside.state, "nequip 0.19.1" in beside.text) == (WARNING, True)
    (both,) = look_at_import_name({"nequip": [facade], "nequip-fork": [fork]})
    assert (both.state, "nequip-fork 1.0" in both.text) == (BROKEN, True)
    assert by_name(look_at_layers({"nequip": [other]}))["nequip"].state == ABSENT


def test_failing_and_duplicate_plugins_are_named(tmp_path: Path) -> None:
    entries = """
        [nequip.compile_targets]
        fast = some_module:FAST
        [nequip.compile_target]
        lost = some_module:LOST
        [nequip.extension]
        init_always = some_module
    """
    one = made_distribution(tmp_path, "nequip-one", "1.0", entry_points_txt=entries)
    two = made_distribution(tmp_path, "nequip-two", "2.0", entry_points_txt=entries)
    offered = [*one.entry_points, *two.entry_points]
    crash = Outcome("crashed with SIGSEGV", "crash")
    outcomes = [
        crash if entry.dist.name == "nequip-two" else Outcome()
        for entry in offered
        if entry.dist is not None
    ]
    findings = look_at_plugins(offered, outcomes, {})
    texts = [finding.text for finding in findings if finding.state == BROKEN]
    assert "fast (nequip-two 2.0) does not import: crashed with SIGSEGV" in texts
    assert "some_module (nequip-two 2.0) does not import: crashed with SIGSEGV" in texts
    assert "'fast' is offered by nequip-one 1.0 and by nequip-two 2.0" in texts
    assert len(texts) == 3
    (lost,) = {f.advice for f in findings if f.name == "nequip.compile_target"}
    assert "did you mean 'nequip.compile_targets'?" in lost


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [
        ("NEQUIP_FLOAT64_MODEL_TOL", "1e-9", OK),
        ("NEQUIP_FLOAT64_MODEL_TOL", "tight", BROKEN),
        ("NEQUIP_FLOAT32_MODEL_TOL", "-1", BROKEN),
        ("NEQUIP_TRUST_CODE", "maybe", BROKEN),
        ("NEQUIP_PACKAGEABILITY", "Warn", BROKEN),
        ("NEQUIP_SKIP_AOTI_MODEL_CHECK", "true", WARNING),
        ("NEQUIP_NL", "ase", WARNING),
        ("NEQUIP_TRUSTCODE", "1", WARNING),
    ],
)
def test_value_of_a_variable_is_judged(name: str, value: str, state: str) -> None:
    finding = by_name(look_at_variables({name: value}))[name]
    assert finding.state == state
    assert value in finding.text


def test_misspelt_variable_gets_the_nearest_name() -> None:
    finding = by_name(look_at_variables({"NEQUIP_TRUSTCODE": "1"}))["NEQUIP_TRUSTCODE"]
    assert "did you mean 'NEQUIP_TRUST_CODE'?" in finding.advice


def test_variables_that_the_sources_read_are_those_of_the_table() -> None:
    literal = re.compile(r'"(_?NEQUIP_[A-Z0-9_]+)"')
    files = [file for file in SOURCES.glob("*/src/**/*.py") if "doctor" not in file.parts]
    assert files
    read = {name for file in files for name in literal.findall(file.read_text())}
    judged = {name for name, variable in VARIABLES.items() if variable.complaint}
    assert read == judged, "add what a layer reads to nequip_core/doctor/variables.py"


def test_trusted_list_that_others_can_write_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    trusted = tmp_path / "nequip" / "built-packages"
    trusted.parent.mkdir(mode=0o700)
    trusted.write_text(f"{'a' * 64}\n")
    trusted.chmod(0o600)
    finding = by_name(look_at_folders())["list of trusted packages"]
    assert (finding.state, finding.text) == (OK, f"{trusted}: 1 packages")
    trusted.chmod(0o622)
    finding = by_name(look_at_folders())["list of trusted packages"]
    assert (finding.state, f"chmod go-w {trusted}" in finding.advice) == (BROKEN, True)


def test_cache_that_is_a_file_is_broken_and_a_lock_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    lock = tmp_path / "torch_extensions" / "py311_cpu" / "kernels" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    (tmp_path / "nequip").touch()
    findings = look_at_folders()
    assert by_name(findings)["caches of the layers"].state == BROKEN
    assert any(f"rm {lock}" in finding.advice for finding in findings)


@pytest.mark.skipif(os.name == "nt", reason="the compilers of the test are shell scripts")
@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("echo 'x.cpp:1: fatal error: vector: No such file' >&2; exit 1", "fatal error: vector"),
        ("sleep 60", "no answer within"),
    ],
)
def test_compiler_that_fails_or_hangs_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, wanted: str
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo fake 1.0 && exit\nexec sh -c "{script}"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(toolchain, "_SECONDS", 1.0)
    (finding,) = toolchain.look_at_compiler(quick=False)
    assert (finding.state, wanted in finding.text) == (BROKEN, True)


def test_missing_compiler_is_absent_and_a_wrong_variable_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    (finding,) = toolchain.look_at_compiler(quick=False)
    assert (finding.state, bool(finding.advice)) == (ABSENT, True)
    assert toolchain.look_at_aotinductor(None, compiler=False).state == SKIPPED
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert toolchain.look_at_compiler(quick=False)[0].state == BROKEN


def test_gpu_library_that_fails_without_gpu_is_no_breakage() -> None:
    outcome = Outcome("no driver", "RuntimeError")
    distributions = [Distribution.from_name("numpy")]
    for without_gpu, state in ((True, WARNING), (False, BROKEN)):
        finding = look_at_library("numpy", outcome, distributions, without_gpu=without_gpu)
        assert finding.state == state


def test_device_that_torch_sees_and_cannot_use_is_broken() -> None:
    devices = [{"name": "cuda:0", "text": "Old", "error": "no kernel image is available"}]
    value = {"devices": devices, "warnings": []}
    found = by_name(look_at_devices(Outcome(value=value), {"cuda": "12.8", "rocm": ""}))
    assert found["cuda:0"].state == BROKEN
    assert "no kernel image" in found["cuda:0"].text


def test_gpu_build_without_gpu_repeats_what_torch_said() -> None:
    value = {"devices": [], "warnings": ["The NVIDIA driver on your system is too old"]}
    found = by_name(look_at_devices(Outcome(value=value), {"cuda": "12.8", "rocm": ""}))
    assert (found["GPU"].state, "too old" in found["GPU"].text) == (WARNING, True)


def test_report_is_aligned_and_names_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(Path.home())
    look = [
        Finding("a", OK, f"{home}/x and '{home}'"),
        Finding("longer name", BROKEN, "bad\x1b[2J", "pip install x"),
    ]
    section = examined("Topic", lambda: look)
    assert section.findings[0].text == "~/x and '~'"
    lines = as_text([section], "verdict").splitlines()
    assert lines[0] == "Topic"
    assert lines[1].index("~/x") == lines[2].index("bad") == lines[3].index("->")
    assert "\x1b" not in "".join(lines)
    content = json.loads(as_json([section], "verdict", 1))
    assert content["exit_code"] == 1
    assert content["sections"][0]["findings"][1]["advice"] == "pip install x"


def test_look_that_raises_is_a_finding() -> None:
    def look() -> list[Finding]:
        raise RuntimeError("unreadable metadata")

    section = examined("Topic", look)
    assert isinstance(section, Section)
    assert section.findings[0].state == BROKEN
    assert "unreadable metadata" in section.findings[0].text


def run_doctor(*arguments: str) -> tuple[int, dict[str, dict[str, dict[str, str]]]]:
    found = subprocess.run(
        [sys.executable, "-m", "nequip_core.doctor", "--json", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stderr == ""
    content = json.loads(found.stdout)
    sections = {
        section["title"]: {f"{f['name']} {f['text']}": f for f in section["findings"]}
        for section in content["sections"]
    }
    assert content["exit_code"] == found.returncode
    return found.returncode, sections


def test_crashing_extension_is_named_and_the_rest_is_reported(modules: Path) -> None:
    made_distribution(
        modules,
        "nequip-crashing",
        "1.0",
        entry_points_txt="[nequip.extension]\ninit_always = crashing\n",
    )
    code, sections = run_doctor("--quick")
    assert code == 1
    broken = [
        name
        for section in sections.values()
        for name in section
        if section[name]["state"] == BROKEN
    ]
    assert (
        "nequip.extension crashing (nequip-crashing 1.0) does not import: crashed with SIGSEGV"
        in broken
    )
    assert any(key.startswith("vesin finds the 28") for key in sections["Neighbor lists"])
    assert "What works here" in sections


def test_torch_that_crashes_is_the_finding_and_the_rest_is_reported(modules: Path) -> None:
    (modules / "torch.py").write_text((modules / "crashing.py").read_text())
    code, sections = run_doctor("--quick")
    assert code == 1
    assert any("crashed with SIGSEGV" in key for key in sections["torch"])
    assert any("not torch" not in key and "broken" in key for key in sections["What works here"])
    assert sections["Plugins"] and sections["Folders"]


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("2.13.0", "pip install --force-reinstall --no-deps torch==2.13.0"),
        (
            "2.13.0+cu128",
            "pip install --force-reinstall --no-deps torch==2.13.0 "
            "--index-url https://download.pytorch.org/whl/cu128",
        ),
        ("2.13.0a0+nv26.1", "install torch 2.13.0a0+nv26.1 again from where it came"),
    ],
)
def test_advice_on_a_broken_torch_keeps_its_build(
    tmp_path: Path, version: str, wanted: str
) -> None:
    torch = made_distribution(tmp_path, "torch", version)
    (finding,) = look_at_torch(Outcome("no libcudart", "OSError"), [torch])
    assert (finding.state, finding.advice) == (BROKEN, wanted)


def test_missing_requirement_of_the_doctor_is_one_line(modules: Path) -> None:
    (modules / "packaging.py").write_text(
        "raise ModuleNotFoundError('No module', name='packaging')\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "nequip_core.doctor"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.splitlines() == [
        "error: the module 'packaging', which nequip-core requires, is not installed; run: "
        "pip install packaging"
    ]


def test_wrong_usage_has_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--fast"])
    assert stop.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_the_folder_of_compiled_models_must_be_private(tmp_path, monkeypatch):
    folder = tmp_path / "compiled"
    monkeypatch.setenv("NEQUIP_COMPILE_CACHE", str(folder))
    assert by_name(look_at_folders())["compiled models"].state == "info"
    folder.mkdir(mode=0o700)
    assert by_name(look_at_folders())["compiled models"].state == OK
    folder.chmod(0o777)
    finding = by_name(look_at_folders())["compiled models"]
    assert finding.state == BROKEN
    assert f"chmod go-w {folder}" in finding.advice
    monkeypatch.setenv("NEQUIP_COMPILE_CACHE", "off")
    assert "compiled models" not in by_name(look_at_folders())


@pytest.mark.parametrize(("value", "state"), [("off", OK), ("on", OK), ("perhaps", BROKEN)])
def test_the_switch_of_compiling_is_checked(value, state):
    assert by_name(look_at_variables({"NEQUIP_COMPILE": value}))["NEQUIP_COMPILE"].state == state
