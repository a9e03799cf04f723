"""``audit``: what it finds in packages that were tampered with, and that ours are clean."""

from __future__ import annotations

import json
import marshal
import os
import pickle
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from torch.fx import graph_module

from nequip_core.archive.reader import PackageReader
from nequip_core.errors import FileFormatError
from nequip_package.audit import ALARM, LOOK, NOTE, Audit, audit_package
from nequip_package.audit_source import audit_source
from nequip_package.command import main
from nequip_package.notable_names import notable
from nequip_package.pickled import Call, Global, Items, read_pickle, walk
from nequip_package.replaced_members import write_with_members

GOLDEN = Path(__file__).parents[3] / "tests" / "golden"
BY_NEQUIP = GOLDEN / "reference" / "0.19.1" / "rich.nequip.zip"
GRAPH_MODEL = "nequip_model/nn/graph_model.py"
PICKLE = "model/eager_model.pkl"


class Calls:
    """Unpickles to the result of a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def changed(package: Path, folder: Path, **members: bytes) -> PackageReader:
    """Return a package with members replaced; ``__`` in a key stands for ``/``."""
    replaced = {name.replace("__", "/"): content for name, content in members.items()}
    return write_with_members(PackageReader(package), folder / "changed.nequip.zip", replaced)


def with_pickle(package: Path, folder: Path, content: bytes) -> Audit:
    reader = PackageReader(package)
    return audit_package(
        write_with_members(reader, folder / "pickle.nequip.zip", {PICKLE: content})
    )


def with_source(package: Path, folder: Path, lines: str) -> Audit:
    reader = PackageReader(package)
    content = reader.read_bytes(GRAPH_MODEL) + b"\n" + lines.encode()
    return audit_package(
        write_with_members(reader, folder / "source.nequip.zip", {GRAPH_MODEL: content})
    )


def test_a_package_of_ours_is_clean(package: Path) -> None:
    audit = audit_package(PackageReader(package))
    assert not audit.of_grade(ALARM) and not audit.of_grade(LOOK)
    assert audit.verdict == "nothing found that reaches out of a computation"
    assert {source.installed for source in audit.sources} == {"same"}
    (pickled,) = audit.pickles
    assert pickled.member == PICKLE
    assert "nequip_model.nn.graph_model.GraphModel" in pickled.from_package
    assert "torch._utils._rebuild_tensor_v2" in pickled.from_outside
    assert pickled.calls > 100 and pickled.tensors > 10
    assert audit.outside["torch"] == "on load"


def test_a_package_by_nequip_has_no_alarm(tmp_path: Path) -> None:
    path = tmp_path / "stored.nequip.zip"
    with zipfile.ZipFile(BY_NEQUIP) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    audit = audit_package(PackageReader(path))
    assert not audit.of_grade(ALARM)
    assert [pickled.member for pickled in audit.pickles] == [
        "model/compile_model.pkl",
        "model/eager_model.pkl",
        "model/example_data.pkl",
    ]
    assert {"numpy", "opt_einsum_fx"} <= set(audit.outside)
    assert audit.outside["cuequivariance_torch"] == "in functions"
    mocks = {source.module for source in audit.sources if source.installed == "mock"}
    assert mocks == {"matplotlib", "matplotlib.patches", "matplotlib.path", "matplotlib.pyplot"}
    # What e3nn does when its modules are unpickled: code of TorchScript is read from bytes.
    what = [finding.what for finding in audit.findings if "_mixin.py" in finding.where]
    assert any("torch.jit.load in __setstate__(): unpickles" in text for text in what)


@pytest.mark.parametrize(
    ("value", "imported", "reaches"),
    [
        (Calls(os.system, "id"), f"{os.name}.system", "starts processes"),
        (Calls(eval, "1"), "builtins.eval", "runs other code"),
        (Calls(marshal.loads, b"N"), "marshal.loads", "runs other code"),
        (
            Calls(graph_module._exec_with_source, "import os", {}),
            "torch.fx.graph_module._exec_with_source",
            "runs other code",
        ),
        (Calls(open, "f"), "io.open", "touches files"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_what_has_no_place_in_the_pickle_of_a_model_is_an_alarm(
    value: Calls, imported: str, reaches: str, protocol: int, package: Path, tmp_path: Path
) -> None:
    audit = with_pickle(package, tmp_path, pickle.dumps(value, protocol))
    alarms = audit.of_grade(ALARM)
    assert {alarm.where for alarm in alarms} == {PICKLE}
    assert f"imports {imported}: {reaches}" in [alarm.what for alarm in alarms]
    assert audit.verdict.endswith("do not run the code of this package")


def test_a_name_from_outside_that_is_only_unusual_is_to_be_looked_at(
    package: Path, tmp_path: Path
) -> None:
    audit = with_pickle(package, tmp_path, pickle.dumps(Calls(len, "id"), 4))
    assert [finding.what for finding in audit.of_grade(LOOK)] == ["imports builtins.len"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x80\x04\x8c\x02os\x8c\x03sys\x8c\x03tem\x86\x93.", "imports a name that it computes"),
        (b"\x80\x02}q\x00)R.", "calls what is no name"),
        (b"\x80\x02cbuiltins\nset\n)R)R.", "calls the result of a call"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "asks its reader for something other than tensors"),
        (b"\x80\x02\x82\x07.", "imports a name that it computes"),
        (b"\x80\x02}", "cannot be read as a pickle"),
    ],
)
def test_odd_pickles_are_alarms(content: bytes, what: str, package: Path, tmp_path: Path) -> None:
    audit = with_pickle(package, tmp_path, content)
    assert any(finding.what.startswith(what) for finding in audit.of_grade(ALARM))


def test_a_pickle_that_reaches_outside_through_an_import_of_the_package_is_an_alarm(
    package: Path, tmp_path: Path
) -> None:
    reader = PackageReader(package)
    source = reader.read_bytes(GRAPH_MODEL) + b"\nfrom os import system as innocent\n"
    pickled = b"\x80\x02cnequip_model.nn.graph_model\ninnocent\nX\x02\x00\x00\x00id\x85R."
    path = tmp_path / "through.nequip.zip"
    audit = audit_package(write_with_members(reader, path, {GRAPH_MODEL: source, PICKLE: pickled}))
    assert [finding.what for finding in audit.of_grade(ALARM)] == [
        "imports os.system: starts processes"
    ]


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("import os as o\no.system('id')", "os.system when imported: starts processes"),
        ("from subprocess import run as r", "subprocess.run when imported: starts processes"),
        ("def f(x=exec('1')):\n    pass", "exec when imported: runs other code"),
        ("def f():\n    import socket\n    socket.socket()", "socket.socket in f(): uses the net"),
        ("class A:\n    @staticmethod\n    def g():\n        eval('1')", "eval in g(): runs other"),
        ("import torch\ntorch.os.system('id')", "torch.os.system when imported: starts proc"),
        ("import os\ngetattr(os, 'sys' + 'tem')", "'sys' + 'tem' when imported: may hide code"),
        ("import os\ngetattr(os, 'system')", "os.system when imported: starts processes"),
        ("f = (lambda: __import__('os'))", "__import__ in lambda(): runs other code"),
        ("().__class__.__subclasses__()", "__subclasses__ when imported: may hide code"),
        ("from os import *", "os.* when imported: may hide code"),
        ("import ctypes.util\nctypes.util.find_library('c')", "ctypes.util.find_library when"),
        ("import torch\ntorch.ops.load_library('x.so')", "torch.ops.load_library when imported"),
        ("x = (", "cannot be read: SyntaxError"),
    ],
)
def test_code_that_reaches_out_is_to_be_looked_at(
    lines: str, what: str, package: Path, tmp_path: Path
) -> None:
    audit = with_source(package, tmp_path, lines)
    found = audit.of_grade(LOOK)
    assert any(finding.what.startswith(what) for finding in found), audit.findings
    assert all(finding.where.startswith(GRAPH_MODEL) for finding in found)
    (source,) = [source for source in audit.sources if source.member == GRAPH_MODEL]
    assert source.installed == "differs"


def test_calls_on_import_are_told_with_their_lines() -> None:
    report = audit_source(
        b"import a\nx = a.f(1)\ndef g():\n    a.f(2)\n@a.mark(3)\nclass C:\n    y = a.f(4)\n",
        "m",
        is_package=False,
    )
    assert report.calls_on_load == [(2, "a.f(1)"), (5, "a.mark(3)"), (7, "a.f(4)")]
    assert report.imports_on_load == {"a"} and report.imports_later == set()


def test_a_function_of_the_module_itself_is_no_builtin() -> None:
    report = audit_source(b"def compile(x):\n    return x\ncompile(1)\n", "m", is_package=False)
    assert report.uses == []


@pytest.mark.parametrize(
    ("name", "reaches"),
    [
        ("os.path.join", None),
        ("os.environ.get", "looks at or changes the process"),
        ("importlib.metadata.version", None),
        ("importlib.import_module", "runs other code"),
        ("package.module.subprocess.run", "starts processes"),
        ("torch.nn.Linear", None),
        ("torch.load", "unpickles"),
    ],
)
def test_notable_names(name: str, reaches: str | None) -> None:
    assert notable(name) == reaches


def test_a_file_without_a_place_in_a_package_is_to_be_looked_at(
    package: Path, tmp_path: Path
) -> None:
    audit = audit_package(changed(package, tmp_path, nequip_model__nn__kernel_so=b"\x7fELF"))
    assert [(finding.where, finding.what) for finding in audit.of_grade(LOOK)] == [
        ("nequip_model/nn/kernel_so", "has no place in a package")
    ]


def test_the_command_prints_for_people_and_for_machines(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(package), "--exit-code"]) == 0
    text = capsys.readouterr().out
    assert "nequip_model" in text and "nothing found" in text and "--trust-code" in text
    reader = PackageReader(package)
    path = tmp_path / "bad.nequip.zip"
    content = pickle.dumps(Calls(os.system, "\x1b[2Jid"), 2)
    write_with_members(reader, path, {PICKLE: content})
    assert main(["audit", str(path)]) == 0
    text = capsys.readouterr().out
    assert f"alarm  {PICKLE}  imports {os.name}.system: starts processes" in text
    assert "\x1b" not in text
    assert main(["audit", str(path), "--exit-code", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["findings"][0] == {
        "grade": "alarm",
        "where": PICKLE,
        "what": f"imports {os.name}.system: starts processes",
    }
    assert report["verdict"].startswith("1 alarm")


def test_notes_are_shown_on_demand(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = audit_package(PackageReader(package)).of_grade(NOTE)
    assert notes
    main(["audit", str(package)])
    assert f"{len(notes)} note" in capsys.readouterr().out
    main(["audit", "--all", str(package)])
    assert capsys.readouterr().out.count("\nnote  ") == len(notes)


def test_read_pickle_describes_what_a_pickle_makes() -> None:
    value = {"a": [1, 2.5, None, True, (b"x", "y")], "s": {1}, "n": Calls(complex, 1, 2)}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found = read_pickle(pickle.dumps(value, protocol), "it")
        assert isinstance(found.value, Items)
        items = found.value.get("a")
        assert items[:2] == [1, 2.5] and items[2] is None and items[4][1] == "y"
        call = found.value.get("n")
        assert isinstance(call, Call) and call.arguments == (1, 2)
        assert call.function.name == "complex"
        assert Global(call.function.module, "complex") in found.imports
        assert any(part == "y" for part in walk(found.value))


def test_reading_a_pickle_takes_time_in_proportion_to_its_length() -> None:
    # A tuple that holds the one before twice, 60 times: 2**60 parts once unpickled.
    content = b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"."
    found = read_pickle(content, "it")
    assert len(list(walk(found.value))) == 61


def with_members(folder: Path, members: dict[str, bytes]) -> PackageReader:
    """Return a package of format 2 with members added at its end."""
    path = folder / "added.nequip.zip"
    path.write_bytes((GOLDEN / "format2-nequip-0.1.0" / "model.nequip.zip").read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        top = archive.namelist()[0].partition("/")[0]
        for name, content in members.items():
            archive.writestr(f"{top}/{name}", content)
    return PackageReader(path)


@pytest.mark.parametrize("member", ["this.part/module.py", "this.module.py"])
def test_no_installed_module_that_a_member_names_is_imported(member: str, tmp_path: Path) -> None:
    sys.modules.pop("this", None)
    audit = audit_package(with_members(tmp_path, {member: b"x = 1\n"}))
    assert "this" not in sys.modules
    assert [finding.where for finding in audit.of_grade(LOOK)] == [member]
    assert "this" not in {source.module.partition(".")[0] for source in audit.sources}


def test_two_files_of_one_module_are_an_error(tmp_path: Path) -> None:
    # torch.package runs the one that comes later in the file.
    package = with_members(tmp_path, {"a/b/__init__.py": b"", "a/b.py": b"import os\n"})
    with pytest.raises(FileFormatError, match=r"two files of one module, 'a/b\.py'"):
        audit_package(package)


def test_the_audit_of_a_source_takes_time_in_proportion_to_its_length() -> None:
    start = time.process_time()
    report = audit_source(b"import os\n" + b"os.system\n" * 20_000, "module", is_package=False)
    assert len(report.uses) == 20_000
    assert time.process_time() - start < 10.0


def test_a_source_that_is_too_large_is_not_parsed_and_long_calls_are_cut() -> None:
    assert "read are up to" in audit_source(b" " * 5_000_000, "module", is_package=False).error
    report = audit_source(b"a('" + b"x" * 5000 + b"')\n", "module", is_package=False)
    assert [len(text) for _, text in report.calls_on_load] == [1000]
