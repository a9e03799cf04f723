"""Older packages in the current format, and packages and checkpoints of NequIP as ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nequip_core.archive.loading import load_package
from nequip_core.archive.reader import PackageReader
from nequip_core.digests import file_digest
from nequip_core.errors import PackagingError, PluginError
from nequip_core.synthetic import synthetic_frame
from nequip_package.command import main
from nequip_package.convert import convert_package
from nequip_package.upgrade import upgrade_package

# Code of the packages, which is not ours to change.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

GOLDEN = Path(__file__).parents[3] / "tests" / "golden"
REFERENCE = GOLDEN / "reference"
FORMAT2 = GOLDEN / "format2-nequip-0.1.0" / "model.nequip.zip"
VERSIONS = sorted(path.name for path in REFERENCE.iterdir())
FRAME = synthetic_frame(["Cu", "Au"], 4.0, seed=3)
FIELDS = ("total_energy", "atomic_energy", "forces", "virial", "stress")


@pytest.mark.parametrize("version", VERSIONS)
def test_package_of_nequip_keeps_code_modes_and_predictions(
    reference_package: Callable[..., Path], tmp_path: Path, version: str
) -> None:
    source = reference_package(version)
    before = PackageReader(source)
    target = upgrade_package(source, tmp_path / "new.nequip.zip", trust_code=True)
    after = PackageReader(target)
    assert after.format_version == 3
    assert after.metadata["available_models"] == before.metadata["available_models"]
    assert after.metadata["versions"]["nequip"] == version
    assert after.metadata["type_names"] == ["Cu", "Au"]
    assert after.r_max == 4.0
    assert after.architecture == {"models": {"sole_model": None}}
    [step] = after.lineage
    assert (step["relation"], step["digest"]) == ("upgraded", file_digest(source))
    assert set(after.sources()) == set(before.sources())
    expected = load_package(source, trust_code=True).models["sole_model"](dict(FRAME))
    found = load_package(target).models["sole_model"](dict(FRAME))
    for key in FIELDS:
        assert torch.equal(found[key], expected[key]), key


def test_our_format_two_is_upgraded(tmp_path: Path) -> None:
    target = upgrade_package(FORMAT2, tmp_path / "new.nequip.zip", trust_code=True)
    before, after = PackageReader(FORMAT2), PackageReader(target)
    assert after.metadata["versions"] == before.metadata["versions"]
    models = [
        load_package(path, trust_code=True).models["sole_model"] for path in (FORMAT2, target)
    ]
    frame = synthetic_frame(models[0].type_names, models[0].r_max)
    first, second = (model(dict(frame)) for model in models)
    assert torch.equal(first["forces"], second["forces"])


def test_training_frame_of_an_older_package_is_not_kept(
    reference_package: Callable[..., Path], tmp_path: Path
) -> None:
    source = reference_package("0.19.1")
    target = upgrade_package(source, tmp_path / "new.nequip.zip", trust_code=True)
    names = {name.partition("/")[2] for _, name in PackageReader(target).members()}
    assert "model/example_data.pkl" not in names
    expected = synthetic_frame(["Cu", "Au"], 4.0)
    found = PackageReader(target).example_frame()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_current_package_is_not_upgraded(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upgrade", str(package), str(tmp_path / "a.nequip.zip")]) == 1
    assert "has format 3, the current one: nothing to upgrade" in capsys.readouterr().err


def test_code_of_a_foreign_package_runs_only_with_consent(
    reference_package: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = reference_package("0.17.1"), tmp_path / "a.nequip.zip"
    assert main(["upgrade", str(source), str(target)]) == 1
    error = capsys.readouterr().err
    assert "there is no consent to run it" in error
    assert "nequip-package audit" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("trust_code", [None, True])
def test_package_of_nequip_becomes_ours(
    reference_package: Callable[..., Path], tmp_path: Path, version: str, trust_code: bool | None
) -> None:
    source = reference_package(version)
    lines: list[str] = []
    target = convert_package(
        source, tmp_path / "ours.nequip.zip", trust_code=trust_code, report=lines.append
    )
    reader = PackageReader(target)
    assert not any(name.startswith(("nequip.", "e3nn")) for name in reader.sources())
    [step] = reader.lineage
    assert step["relation"] == "converted"
    assert step["digest"] == file_digest(source)
    assert step["format"] == 2
    assert step["details"]["versions"]["nequip"] == version
    compared = any(line.startswith("comparing with the predictions of the file") for line in lines)
    assert compared is bool(trust_code)
    assert ("largest_deviations" in step["details"]) is bool(trust_code)
    rebuilt = load_package(target, load="rebuild").models["sole_model"](dict(FRAME))
    original = load_package(source, trust_code=True).models["sole_model"](dict(FRAME))
    for key in FIELDS:
        torch.testing.assert_close(rebuilt[key], original[key], rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("version", VERSIONS)
def test_checkpoint_of_nequip_becomes_ours(version: str, tmp_path: Path) -> None:
    source = REFERENCE / version / "rich.ckpt"
    target = tmp_path / "ours.nequip.zip"
    assert main(["convert", str(source), str(target)]) == 0
    [step] = PackageReader(target).lineage
    assert (step["format"], step["digest"]) == (None, file_digest(source))
    assert load_package(target, load="rebuild").loaded_by == "rebuild"


def test_converted_model_that_predicts_otherwise_is_not_written(
    reference_package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nequip_package.convert as convert

    load = convert.load_plugin

    def shifted(*names: str) -> object:
        def run(path: Path) -> object:
            saved = load(*names)(path)
            with torch.no_grad():
                next(p for p in saved.models.parameters() if p.numel() > 1).mul_(1.0 + 1e-7)
            return saved

        return run

    monkeypatch.setattr(convert, "load_plugin", shifted)
    target = tmp_path / "ours.nequip.zip"
    with pytest.raises(PackagingError, match="of the converted model 'sole_model' differs by"):
        convert_package(reference_package("0.19.1"), target, trust_code=True)
    assert not target.exists()


def test_unknown_converter_is_an_error(
    reference_package: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(PluginError, match=r"no 'mace' in entry-point group 'nequip\.converters'"):
        convert_package(reference_package("0.19.1"), tmp_path / "ours.nequip.zip", converter="mace")


def test_output_must_be_another_file(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = package.read_bytes()
    for command in ("upgrade", "convert"):
        assert main([command, str(package), str(package)]) == 1
        assert "input and output must differ" in capsys.readouterr().err
    assert package.read_bytes() == before


def test_lineage_is_plain_text_that_people_read(
    reference_package: Callable[..., Path], tmp_path: Path
) -> None:
    target = convert_package(reference_package("0.14.0"), tmp_path / "ours.nequip.zip")
    text = PackageReader(target).read_text("model/lineage.json")
    assert text.endswith("}\n")
    assert json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n" == text
