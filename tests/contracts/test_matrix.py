"""The compatibility matrix: its data, what counts as passed, and the report."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOOLS, ARCHIVES = ROOT / "tools", ROOT / "tests" / "compat" / "archives"


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a script as a module; its siblings can be imported while it is loaded."""
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"matrix_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load(TOOLS / "environments.py", monkeypatch)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load(ARCHIVES / "archives_read.py", monkeypatch)


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load(ARCHIVES / "corpus.py", monkeypatch)


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load(TOOLS / "matrix_report.py", monkeypatch)


EXPECTED = {"error": "ValueError", "message": "too new", "reason": "it is older"}


def raising(error: Exception) -> Any:
    def run() -> str:
        raise error

    return run


def test_there_are_six_writers_and_six_readers(environments: ModuleType) -> None:
    for role in ("write", "read"):
        assert len(environments.names(role)) >= 6


def test_every_axis_has_its_ends(environments: ModuleType) -> None:
    found = environments.read_environments().values()
    assert {"2.7.1", "2.13.0", "2.14.1"} <= {item.torch for item in found}
    assert {"3.11", "3.12", "3.13"} <= {item.python for item in found}
    assert {"0.1.0", "tree"} <= {version for item in found for version in item.layers.values()}


def test_an_environment_without_a_reason_is_refused(
    environments: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "environments.toml"
    path.write_text(
        '[[environment]]\nname = "a"\nlayers = "tree"\ntorch = "2"\npython = "3.11"\nroles = []\n'
    )
    with pytest.raises(SystemExit, match="has no reason"):
        environments.read_environments(path)
    path.write_text("")
    with pytest.raises(SystemExit, match="no environments"):
        environments.read_environments(path)


@pytest.mark.parametrize(
    ("run", "expected", "outcome"),
    [
        (lambda: "fine", None, "pass"),
        (lambda: "fine", EXPECTED, "fail"),
        (raising(ValueError("format is too new")), EXPECTED, "refused"),
        (raising(ValueError("format is too new")), None, "fail"),
        (raising(KeyError("too new")), EXPECTED, "fail"),
        (raising(ValueError("something else")), EXPECTED, "fail"),
    ],
    ids=["pass", "unexpected-pass", "named-error", "error", "other-class", "other-words"],
)
def test_only_the_named_error_excuses_a_cell(
    reader: ModuleType, run: Any, expected: Any, outcome: str
) -> None:
    assert reader.judge(run, expected)[0] == outcome


def test_known_failures_are_found_by_pattern(reader: ModuleType) -> None:
    known = [{"reader": "0.1.0*", "item": "package*", "checks": ["snapshot"], **EXPECTED}]
    cell = {"reader": "0.1.0-torch", "writer": "tree", "item": "package-x", "check": "snapshot"}
    assert reader.known_failure(known, cell) == known[0]
    for change in ({"reader": "tree"}, {"item": "checkpoint"}, {"check": "metadata"}):
        assert reader.known_failure(known, {**cell, **change}) is None


def test_other_versions_than_expected_stop_a_script(corpus: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"this run is about 0\.0\.1"):
        corpus.check_versions(["nequip-core==0.0.1"])
    with pytest.raises(SystemExit, match=r"python is .*, this run is about 2\.7"):
        corpus.check_versions(["python==2.7"])
    with pytest.raises(SystemExit, match="nothing would be proved"):
        corpus.check_versions([])


def test_empty_archives_are_refused(corpus: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="write it first"):
        corpus.read_corpus(tmp_path)
    (tmp_path / "corpus.json").write_text(json.dumps({"items": []}))
    with pytest.raises(SystemExit, match="nothing would be proved"):
        corpus.read_corpus(tmp_path)


def test_an_item_that_is_neither_made_nor_explained_is_refused(
    corpus: ModuleType, tmp_path: Path
) -> None:
    absent = dict.fromkeys(corpus.ITEMS, "a reason")
    corpus.write_corpus(tmp_path, {"items": [], "absent": absent})
    del absent["package"]
    with pytest.raises(SystemExit, match="made or explained"):
        corpus.write_corpus(tmp_path, {"items": [], "absent": absent})


def test_the_report_is_that_of_the_measurements() -> None:
    command = [sys.executable, str(TOOLS / "matrix_report.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_report_shows_what_was_not_measured_as_not_run(report: ModuleType) -> None:
    cell = {"reader": "tree", "writer": "0.1.0", "item": "package", "check": "snapshot"}
    matrix = report.Matrix(report.read_environments(), {}, [{**cell, "outcome": "pass"}])
    assert matrix.outcome("tree", "0.1.0", check="snapshot") == "pass"
    assert matrix.outcome("tree", "tree", check="snapshot") == "not run"
    rows = [line for line in report.quick_table(matrix).splitlines() if "all layers" in line]
    assert "| 2.13.0 | 3.11 | **yes** | not run | not run |" in rows[0]
    assert all(row.endswith("| not run | not run | not run |") for row in rows[1:])


def test_a_failed_cell_is_shown_before_any_that_passed(report: ModuleType) -> None:
    cell = {"reader": "tree", "writer": "0.1.0", "item": "package", "check": "snapshot"}
    cells = [{**cell, "outcome": outcome} for outcome in ("pass", "fail", "refused")]
    matrix = report.Matrix(report.read_environments(), {}, cells)
    assert matrix.outcome("tree", "0.1.0") == "fail"
    assert "**FAILS**" in report.quick_table(matrix)
    assert "1 FAIL" in report.cells_table(matrix)


def test_lower_ends_are_those_of_all_layers_below(monkeypatch: pytest.MonkeyPatch) -> None:
    pins = load(TOOLS / "pins.py", monkeypatch)
    ends = pins.lower_ends("nequip-train")
    assert {"torch", "e3nn", "vesin", "lightning", "numpy"} <= set(ends)
    assert not set(ends) & set(pins.LAYERS)
    assert {needed.name for needed in pins.requirements("nequip-core")} < ends.keys()
    assert pins.lower_ends("nequip-core")["torch"] == ends["torch"]


def test_pins_of_every_distribution_can_be_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    pins = load(TOOLS / "pins.py", monkeypatch)
    layers = {file.parent.name for file in TOOLS.parent.glob("packages/*/pyproject.toml")}
    assert set(pins.LAYERS) == layers
    for name in sorted(layers):
        assert pins.lower_ends(name)["torch"]


def test_a_wheel_says_which_cores_it_runs_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = load(TOOLS / "pins.py", monkeypatch)
    wheel = tmp_path / "layer-1-py3-none-any.whl"
    needs = "Name: layer\nRequires-Dist: nequip-core<0.3,>=0.2.1\nRequires-Dist: torch>=2.7\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("layer-1.dist-info/METADATA", needs)
    admitted = {core: pins.admits(wheel, core) for core in ("0.2.0", "0.2.1", "0.3.0")}
    assert admitted == {"0.2.0": False, "0.2.1": True, "0.3.0": False}
