"""``diff``: two packages, a package and the installed code, single files; formats mixed."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from nequip_core.archive.loading import load_package
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import FileFormatError
from nequip_core.saved_model import SavedModel
from nequip_package.build import build_package
from nequip_package.card import write_card
from nequip_package.command import main
from nequip_package.diff import ABSENT, diff_packages, find_member, unified_diff
from nequip_package.replaced_members import write_with_members
from nequip_package.stored_tensors import package_tensors

GOLDEN = Path(__file__).parents[3] / "tests" / "golden"
FORMAT_2 = GOLDEN / "format2-nequip-0.1.0" / "model.nequip.zip"
GRAPH_MODEL = "nequip_model/nn/graph_model.py"


@pytest.fixture(scope="module")
def shifted(saved: SavedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a package whose models differ in one tensor, scaled by 1.5, and its name."""
    models = load_package_like(saved)
    name = "sole_model.model.energy.type_embedding.weight"
    with torch.no_grad():
        models.state_dict()[name].mul_(1.5)
    changed = SavedModel(models, saved.config, saved.versions, saved.source)
    return build_package(changed, tmp_path_factory.mktemp("shifted") / "b.nequip.zip"), name


def load_package_like(saved: SavedModel) -> torch.nn.ModuleDict:
    """Return a copy of the models that can be changed."""
    from nequip_model.checkpoint import build_models

    models = build_models(saved.config["training_module"]["model"]).eval()
    models.load_state_dict(saved.models.state_dict())
    return models


@pytest.fixture
def edited(package: Path, tmp_path: Path) -> Path:
    """Return a package with two lines more in one source and another source added."""
    reader = PackageReader(package)
    source = reader.read_bytes(GRAPH_MODEL)
    changes = {GRAPH_MODEL: source + b"\n# more\n", "nequip_model/nn/new.py": b"x = 1\n"}
    return write_with_members(reader, tmp_path / "edited.nequip.zip", changes).path


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    code = main(["diff", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_a_package_does_not_differ_from_itself(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, package, package, "--exit-code") == (0, "(no differences)\n")
    assert not diff_packages(PackageReader(package), PackageReader(package)).differs


def test_differing_weights_are_compared_by_norm(
    package: Path, shifted: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, name = shifted
    found = diff_packages(PackageReader(package), PackageReader(path))
    (change,) = found.tensors
    before = load_package(package, trust_code=True).models.state_dict()[name]
    assert change.name == name
    assert change.before == change.after == f"float64 {list(before.shape)}"
    assert change.norm_before == pytest.approx(before.norm().item(), rel=1e-14)
    assert change.norm_after == pytest.approx(1.5 * before.norm().item(), rel=1e-14)
    assert change.relative_change == pytest.approx(0.5, rel=1e-14)
    assert (found.code, found.metadata) == ([], [])
    code, text = run(capsys, package, path)
    assert code == 0
    assert f"{name}  float64" in text and "5.00e-01" in text
    assert f"{found.num_tensors - 1} of {found.num_tensors} tensors are the same" in text
    assert run(capsys, package, path, "--exit-code")[0] == 1


def test_differing_code_is_counted_and_shown(
    package: Path, edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = diff_packages(PackageReader(package), PackageReader(edited))
    assert [(change.member, change.state) for change in found.code] == [
        (GRAPH_MODEL, "changed"),
        ("nequip_model/nn/new.py", "only in the second"),
    ]
    assert (found.code[0].added, found.code[0].removed) == (2, 0)
    assert "+# more" not in run(capsys, package, edited)[1]
    patch = run(capsys, package, edited, "--patch")[1]
    assert "\n+# more\n" in patch and "\n+x = 1\n" in patch
    single = run(capsys, package, edited, GRAPH_MODEL)[1]
    assert single.endswith("+\n+# more\n") and "+x = 1" not in single


def test_differing_card_and_lineage_are_told(package: Path, tmp_path: Path) -> None:
    reader = PackageReader(package)
    other = write_card(reader, tmp_path / "card.nequip.zip", {"license": "MIT"})
    found = diff_packages(reader, other)
    assert [(change.key, change.before, change.after) for change in found.card] == [
        ("license", ABSENT, "MIT")
    ]
    assert [change.key for change in found.lineage] == [reader.identity[:16]]
    assert not (found.code or found.tensors or found.metadata or found.config or found.members)


def test_machines_get_json(
    package: Path, shifted: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads(run(capsys, package, shifted[0], "--json")[1])
    assert report["differs"] is True
    assert [change["name"] for change in report["tensors"]] == [shifted[1]]
    assert report["identities"] == [PackageReader(path).identity for path in (package, shifted[0])]


def test_packages_of_different_formats_are_compared_tensor_by_tensor(package: Path) -> None:
    found = diff_packages(PackageReader(FORMAT_2), PackageReader(package))
    changes = {change.key: (change.before, change.after) for change in found.metadata}
    assert changes["package_version_id"] == (2, 3)
    names = {change.name for change in found.tensors}
    assert "sole_model.model.energy.type_embedding.weight" in names


@pytest.mark.parametrize("which", ["format 2", "format 3"])
def test_weights_read_as_text_are_those_that_torch_loads(which: str, package: Path) -> None:
    path = FORMAT_2 if which == "format 2" else package
    expected = load_package(path, trust_code=True).models.state_dict()
    with package_tensors(PackageReader(path)) as tensors:
        assert set(tensors) == set(expected)
        for name, tensor in tensors.items():
            values = tensor.read()
            assert tensor.dtype == str(expected[name].dtype).removeprefix("torch.")
            assert tensor.shape == values.shape == tuple(expected[name].shape)
            np.testing.assert_array_equal(values, expected[name].numpy())


def test_a_package_is_compared_with_the_installed_code(
    package: Path, edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = len(PackageReader(package).sources())
    assert run(capsys, package, "--exit-code") == (
        0,
        f"{number} of {number} source files are as installed\n",
    )
    code, text = run(capsys, edited)
    assert code == 0
    lines = text.splitlines()
    assert lines[0].split() == [GRAPH_MODEL, "+0", "-2"]
    assert lines[1].split() == ["nequip_model/nn/new.py", "not", "installed"]
    assert lines[2] == f"{number - 1} of {number + 1} source files are as installed"
    assert "\n-# more\n" in run(capsys, edited, "--patch")[1]
    report = json.loads(run(capsys, edited, "--json")[1])
    assert [change["member"] for change in report["code"]] == [
        GRAPH_MODEL,
        "nequip_model/nn/new.py",
    ]


def test_documented_form_with_one_file_and_its_installed_counterpart(
    package: Path, edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, package, f"package/{GRAPH_MODEL}") == (0, "(no differences)\n")
    code, text = run(capsys, edited, f"package/{GRAPH_MODEL}")
    assert code == 0
    assert text.startswith(f"--- edited.nequip.zip:{GRAPH_MODEL}\n+++ ")
    assert text.endswith("-\n-# more\n")
    assert run(capsys, edited, GRAPH_MODEL)[1] == text


def test_documented_form_with_a_local_file(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = tmp_path / "mine.yaml"
    local.write_text(PackageReader(package).config_text.replace("alloy.xyz", "steel.xyz"))
    code, text = run(capsys, package, "package/model/config.yaml", local)
    assert code == 0
    assert "-    file_path: alloy.xyz" in text and "+    file_path: steel.xyz" in text
    gone = tmp_path / "gone"
    assert main(["diff", str(package), "package/model/config.yaml", str(gone)]) == 1
    assert f"no file at '{gone}'" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_an_error_that_names_the_nearest(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(package), "package/nequip_model/nn/graph_mode.py"]) == 1
    error = capsys.readouterr().err
    assert f"did you mean '{GRAPH_MODEL}'" in error and error.count("\n") == 1
    assert main(["diff", str(package), "model/config.yaml"]) == 1
    assert "has no installed counterpart" in capsys.readouterr().err
    with pytest.raises(FileFormatError, match="has no 'gone'"):
        find_member(PackageReader(package), "gone")


def test_content_that_is_not_text_is_compared_by_digest() -> None:
    (line,) = unified_diff(b"\x00a", b"\x00b", ("one", "two"))
    assert line.startswith("binary files one (2 bytes, sha256 ") and line.endswith(") differ")
    assert unified_diff(b"a\n", b"a\r\n", ("one", "two")) == [
        "one and two differ in line ends only"
    ]
    assert unified_diff(b"a", b"a", ("one", "two")) == []


def with_pickle(content: bytes, folder: Path) -> Path:
    """A package whose pickled model is something else."""
    path = folder / "odd.nequip.zip"
    with zipfile.ZipFile(FORMAT_2) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            is_model = name.endswith("eager_model.pkl")
            target.writestr(name, content if is_model else source.read(name))
    return path


@pytest.mark.parametrize(
    "damage",
    [
        b"\x80\x02.",  # nothing on the stack
        b"\x80\x02}u.",  # no mark
        b"\x80\x02h\x05.",  # no such memo
        b"\xff\xff",
        b"",
    ],
)
def test_a_damaged_pickle_is_an_error(
    damage: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_pickle(damage, tmp_path)
    assert main(["diff", str(path), str(FORMAT_2)]) == 1
    assert "is no well-formed pickle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # A module that holds a module that holds ..., 3000 deep.
        (
            b"\x80\x02"
            + b"cm\nA\n)\x81}X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00a" * 3000
            + b"N"
            + b"ssb" * 3000
            + b".",
            "of an unknown form",
        ),
        # A tensor without a storage.
        (
            b"\x80\x02cm\nA\n)\x81}X\x08\x00\x00\x00_buffers}X\x01\x00\x00\x00a"
            b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00)))tRssb.",
            "of an unknown kind",
        ),
        # 40 modules, each twice in the next: a trillion.
        (
            b"\x80\x02cm\nA\n)\x81q\x000"
            + (
                b"cm\nA\n)\x81}X\x08\x00\x00\x00_modules}"
                b"(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00usbq\x000"
            )
            * 40
            + b"h\x00.",
            "more than 100000 modules",
        ),
        # A parameter made from itself.
        (
            b"\x80\x02cm\nA\n)\x81}X\x08\x00\x00\x00_buffers}X\x01\x00\x00\x00a"
            b"ctorch._utils\n_rebuild_parameter\n]q\x00Rq\x010h\x00h\x01a0h\x01ssb.",
            "is made from a list",
        ),
    ],
    ids=["nested", "no storage", "twice and twice again", "from itself"],
)
def test_odd_modules_are_an_error(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_pickle(content, tmp_path)
    assert main(["diff", str(path), str(FORMAT_2)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_comparing_packages_imports_no_torch(package: Path, shifted: tuple[Path, str]) -> None:
    script = (
        "import sys\nfrom nequip_package.command import main\n"
        "main(sys.argv[1:])\nprint('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, "diff", str(package), str(shifted[0])]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"
