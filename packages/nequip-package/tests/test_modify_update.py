"""Packages from packages: models modified, files replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from nequip_core.archive.loading import load_package
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.trust import is_trusted
from nequip_core.errors import ConfigError, FileFormatError, MissingFileError, PackagingError
from nequip_core.synthetic import synthetic_frame
from nequip_package.command import main
from nequip_package.modify import modify_package
from nequip_package.update import update_package
from nequip_package.verify import verify_package

FRAME = synthetic_frame(["Cu", "Au"], 4.0, seed=3)
GATE = "package/nequip_model/nn/gate.py"


def predict(package: Path, load: str = "snapshot") -> dict[str, torch.Tensor]:
    return load_package(package, load=load).models["sole_model"](dict(FRAME))


# -- modify


def test_modifier_changes_the_model_and_is_recorded(package: Path, tmp_path: Path) -> None:
    target = tmp_path / "shifted.nequip.zip"
    arguments = ["--modifier", "modify_PerTypeScaleShift", "shifts={Cu: 2.0}"]
    assert main(["modify", str(package), str(target), *arguments]) == 0
    reader = PackageReader(target)
    [step] = reader.lineage
    assert (step["relation"], step["digest"]) == ("modified", PackageReader(package).identity)
    entry = {"modifier": "modify_PerTypeScaleShift", "shifts": {"Cu": 2.0}}
    assert step["details"] == {"modifiers": [entry]}
    assert reader.architecture is not None
    assert reader.architecture["models"]["sole_model"]["modifiers"] == [entry]
    shift = (2.0 + 1.5) * (FRAME["atom_types"] == 0).sum()
    for way in ("snapshot", "rebuild"):
        found, before = predict(target, way)["total_energy"], predict(package)["total_energy"]
        torch.testing.assert_close(found, before + shift, rtol=0, atol=1e-11)
    assert is_trusted(reader.identity)


def test_modifiers_are_applied_in_order_to_every_mode(
    reference_package: Callable[..., Path], tmp_path: Path
) -> None:
    target = modify_package(
        reference_package("0.19.1"),
        tmp_path / "m.nequip.zip",
        [
            {"modifier": "modify_PerTypeScaleShift", "shifts": {"Cu": 1.0}},
            {"modifier": "modify_PerTypeScaleShift", "shifts": {"Cu": 5.0}},
        ],
        trust_code=True,
    )
    models = {
        mode: load_package(target, mode=mode).models["sole_model"] for mode in ("eager", "compile")
    }
    shifts = {
        mode: next(v for n, v in model.state_dict().items() if n.endswith("shifts")).reshape(-1)
        for mode, model in models.items()
    }
    assert float(shifts["eager"][0]) == 5.0
    assert torch.equal(shifts["eager"], shifts["compile"])


def test_modified_model_computes_energies_only(package: Path, tmp_path: Path) -> None:
    target = modify_package(
        package, tmp_path / "e.nequip.zip", [{"modifier": "disable_ForceStressOutput"}]
    )
    assert "forces" not in predict(target)
    reference = PackageReader(target).reference()
    assert set(reference["outputs"]["sole_model"]["periodic"]) == {"total_energy", "atomic_energy"}
    result = verify_package(target)
    assert result.ok
    assert result.ways == ["snapshot", "rebuild"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["modify_PerTypeScaleShifts"], "no modifier .*did you mean 'modify_PerTypeScaleShift'"),
        (["enable_CuEquivariance"], "is an acceleration"),
        (["modify_PerTypeScaleShift", "shift=1"], "has no argument 'shift'"),
        (["modify_PerTypeScaleShift", "shifts"], "must be KEY=VALUE"),
        (["modify_PerTypeScaleShift", "shifts={"], "is not YAML"),
        (["modify_PerTypeScaleShift", "shifts={Fe: 1.0}"], "Fe"),
    ],
)
def test_mistake_in_modify_is_one_line_and_leaves_nothing(
    words: list[str],
    message: str,
    package: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "m.nequip.zip"
    assert main(["modify", str(package), str(target), "--modifier", *words]) == 1
    error = capsys.readouterr().err.partition("error: ")[2]
    assert error.count("\n") == 1
    import re

    assert re.search(message, error)
    assert list(tmp_path.iterdir()) == []


def test_modify_without_a_modifier_is_an_error(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no modifier is given"):
        modify_package(package, tmp_path / "m.nequip.zip", [])
    with pytest.raises(SystemExit) as caught:
        main(["modify", str(package), str(tmp_path / "m.nequip.zip")])
    assert caught.value.code == 2


# -- update


@pytest.fixture
def gate(package: Path) -> str:
    return PackageReader(package).read_text("nequip_model/nn/gate.py")


def test_source_is_replaced_and_predictions_stay(package: Path, gate: str, tmp_path: Path) -> None:
    local = tmp_path / "gate.py"
    local.write_text(gate + "\n# a comment\n")
    target = tmp_path / "u.nequip.zip"
    assert main(["update", str(package), str(target), "--replace", GATE, str(local)]) == 0
    before, after = PackageReader(package), PackageReader(target)
    assert after.read_text("nequip_model/nn/gate.py").endswith("# a comment\n")
    for member in set(after.sources().values()) - {"nequip_model/nn/gate.py"}:
        assert after.read_bytes(member) == before.read_bytes(member)
    [step] = after.lineage
    assert (step["relation"], step["digest"]) == ("updated", before.identity)
    assert list(step["details"]["replaced"]) == ["nequip_model/nn/gate.py"]
    assert torch.equal(predict(target)["forces"], predict(package)["forces"])
    assert after.architecture == before.architecture


def test_installed_file_is_the_default(package: Path, gate: str, tmp_path: Path) -> None:
    older = tmp_path / "gate.py"
    older.write_text(gate + "\n# a comment\n")
    between = update_package(package, tmp_path / "a.nequip.zip", [(GATE, older)])
    target = update_package(between, tmp_path / "b.nequip.zip", [(GATE, None)])
    assert PackageReader(target).read_text("nequip_model/nn/gate.py") == gate
    steps = PackageReader(target).lineage
    identities = [PackageReader(path).identity for path in (between, package)]
    assert [step["digest"] for step in steps] == identities


def test_code_that_predicts_otherwise_is_not_written(
    package: Path, gate: str, tmp_path: Path
) -> None:
    energy = PackageReader(package).read_text("nequip_model/nn/energy.py")
    assert "torch." in energy
    local = tmp_path / "energy.py"
    changed = energy.replace("def forward(", "def _forward(", 1)
    first = changed.index("def _forward(")
    class_start = changed.rindex("class ", 0, first)
    assert class_start >= 0
    local.write_text(
        changed + "\n\ndef _wrap(kind):\n"
        "    def forward(self, *args, **kwargs):\n"
        "        out = self._forward(*args, **kwargs)\n"
        "        return {k: v * 1.001 if k == 'atomic_energy' else v for k, v in out.items()} \\\n"
        "            if isinstance(out, dict) else out * 1.001\n"
        "    kind.forward = forward\n\n\n"
        f"_wrap({changed[class_start:].split('(')[0].split()[1].rstrip(':')})\n"
    )
    target = tmp_path / "u.nequip.zip"
    replaced = [("package/nequip_model/nn/energy.py", local)]
    with pytest.raises(PackagingError, match=r"differs from the model by up to .*nothing was"):
        update_package(package, target, replaced)
    assert not target.exists()


def test_new_source_may_import_what_the_package_has_and_the_standard_library(
    package: Path, gate: str, tmp_path: Path
) -> None:
    local = tmp_path / "gate.py"
    local.write_text("import fractions\nfrom nequip_core.fields import POSITIONS_KEY\n" + gate)
    local.write_text(gate + "\nimport fractions\nfrom nequip_core.fields import POSITIONS_KEY\n")
    target = update_package(package, tmp_path / "u.nequip.zip", [(GATE, local)])
    assert "fractions" in PackageReader(target).extern_modules
    assert torch.equal(predict(target)["forces"], predict(package)["forces"])


def test_source_is_added_with_the_one_that_needs_it(
    package: Path, gate: str, tmp_path: Path
) -> None:
    local, added = tmp_path / "gate.py", tmp_path / "extra.py"
    local.write_text(gate + "\nfrom nequip_model.nn.extra import NUMBER\n")
    added.write_text("NUMBER = 1\n")
    target = tmp_path / "u.nequip.zip"
    with pytest.raises(PackagingError, match=r"imports 'nequip_model.nn.extra', which the package"):
        update_package(package, target, [(GATE, local)])
    update_package(package, target, [(GATE, local), ("package/nequip_model/nn/extra.py", added)])
    assert "nequip_model.nn.extra" in PackageReader(target).sources()
    assert torch.equal(predict(target)["forces"], predict(package)["forces"])


def test_config_is_replaced(package: Path, tmp_path: Path) -> None:
    local = tmp_path / "config.yaml"
    local.write_text("data: {file: /secret/place/alloy.xyz}\n")
    target = update_package(
        package, tmp_path / "u.nequip.zip", [("package/model/config.yaml", local)]
    )
    assert yaml.safe_load(PackageReader(target).config_text) == {"data": {"file": "alloy.xyz"}}


@pytest.mark.parametrize(
    ("member", "error", "message"),
    [
        ("package/model/eager_model.pkl", ConfigError, "cannot be replaced: it follows"),
        ("package/model/package_metadata.txt", ConfigError, "cannot be replaced: it follows"),
        ("package/.data/version", ConfigError, "cannot be replaced"),
        ("package/nequip_model/nn/gate.txt", ConfigError, "did you mean '.*gate.py'"),
        ("package/other_library/gate.py", ConfigError, "has no"),
    ],
)
def test_what_cannot_be_replaced_is_refused(
    member: str, error: type[Exception], message: str, package: Path, tmp_path: Path
) -> None:
    local = tmp_path / "new"
    local.write_text("x = 1\n")
    with pytest.raises(error, match=message):
        update_package(package, tmp_path / "u.nequip.zip", [(member, local)])


def test_bad_replacements_are_refused(package: Path, tmp_path: Path) -> None:
    target, local = tmp_path / "u.nequip.zip", tmp_path / "gate.py"
    with pytest.raises(MissingFileError, match="no replacement at"):
        update_package(package, target, [(GATE, local)])
    local.write_text("def (\n")
    with pytest.raises(FileFormatError, match="is not valid Python"):
        update_package(package, target, [(GATE, local)])
    local.write_text("- a list\n")
    with pytest.raises(FileFormatError, match="is not a mapping"):
        update_package(package, target, [("package/model/config.yaml", local)])
    with pytest.raises(ConfigError, match="is replaced twice"):
        update_package(package, target, [(GATE, None), (GATE, None)])
    with pytest.raises(ConfigError, match="nothing to replace"):
        update_package(package, target, [])
    with pytest.raises(ConfigError, match="input and output must differ"):
        update_package(package, package, [(GATE, None)])
    assert not target.exists()


def test_three_paths_after_replace_are_a_usage_error(package: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["update", str(package), str(tmp_path / "u.nequip.zip"), "--replace", GATE, "a", "b"])
    assert caught.value.code == 2
