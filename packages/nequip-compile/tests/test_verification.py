"""The verification as a whole: errors planted in trace or model, the report, the command."""

import hashlib
import json
import shutil
import zipfile

import pytest
import torch

from nequip_compile import aotinductor, reverification
from nequip_compile.command import main
from nequip_compile.command_verify import source_of
from nequip_compile.preparation import frames_to_verify, prepared_model
from nequip_compile.reverification import target_of, verify_again
from nequip_compile.torchscript import compile_model
from nequip_compile.verification import note_skipped, physics_of, uses_tf32
from nequip_compile.verify import compare_models, eager_references
from nequip_core.compile_targets import ASE, BATCH, custom_target
from nequip_core.compiled import load_compiled_model
from nequip_core.compiled_metadata import (
    REPORT_NAME,
    SOURCE_DIGEST_KEY,
    SOURCE_KEY,
    read_verification_report,
)
from nequip_core.errors import CompileError, ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def one_percent(out):
    return {"forces": out["forces"] * 1.01}


def one_component(out):
    return {"forces": out["forces"] * torch.tensor([1.0, 1.0, 1.01])}


def one_type(out):
    factor = 1.0 + 0.01 * (out["atom_types"] == 1)
    return {"forces": out["forces"] * factor[:, None]}


def turned(out):
    x, y, z = out["forces"].unbind(1)
    return {"forces": torch.stack([x - 0.01 * y, y + 0.01 * x, z], dim=1)}


@pytest.fixture(scope="module")
def scripts(build, tmp_path_factory):
    """dtype -> (model, file)."""
    made = {}
    for dtype in ("float32", "float64"):
        path = tmp_path_factory.mktemp("scripts") / "m.nequip.pth"
        model = build(num_layers=1, model_dtype=dtype)
        compile_model(model, path)
        made[dtype] = (model, path)
    return made


@pytest.mark.parametrize("only_compiled", [True, False])
@pytest.mark.parametrize("change", [one_percent, one_component, one_type, turned])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_planted_error_of_one_percent_leaves_no_file(
    change, only_compiled, dtype, build, wrapped, tmp_path, capsys
):
    # Where the model itself is wrong, the comparison with it finds nothing.
    model = wrapped(build(num_layers=1, model_dtype=dtype), change, only_compiled)
    message = "does not reproduce" if only_compiled else "So does the model before compilation"
    with pytest.raises(CompileError, match=message):
        compile_model(model, tmp_path / "m.nequip.pth")
    lines = capsys.readouterr().err.splitlines()
    assert any(one.startswith("forces = ") and one.endswith("DOES NOT HOLD") for one in lines)
    assert any(one.startswith("forces  ") and one.endswith("FAILED") for one in lines) is (
        only_compiled
    )
    assert list(tmp_path.iterdir()) == []


def test_planted_error_of_one_percent_is_found_in_native_code_too(build, wrapped, tmp_path, capsys):
    model = wrapped(build(num_layers=1, l_max=0), one_percent, True)
    with pytest.raises(CompileError, match="does not reproduce"):
        aotinductor.compile_model(model, tmp_path / "m.nequip.pt2", ASE)
    lines = capsys.readouterr().err.splitlines()
    assert any(one.startswith("forces = ") and one.endswith("DOES NOT HOLD") for one in lines)
    assert any(one.startswith("forces  ") and one.endswith("FAILED") for one in lines)
    assert list(tmp_path.iterdir()) == []


def test_report_holds_every_check_and_is_printed(scripts, capsys):
    _, path = scripts["float32"]
    report = read_verification_report(path)
    assert {"triclinic crystal", "planar molecule"} < set(report["frames"])
    physics = report["physics"]
    assert set(physics["checks"]) == {"forces", "virial", "stress", "force_jacobian", "net_force"}
    assert physics["not_checked"] == {}
    assert physics["frames"] == {"small cluster": 5, "small crystal": 3}
    for check in physics["checks"].values():
        assert check["passed"] is True
        assert 0.0 <= check["max_error"] <= check["allowed"] <= 2e-3 * check["scale"]
    assert main(["info", str(path)]) == 0
    printed = capsys.readouterr().out
    for title in ("forces = -dE/dx", "dF_i/dx_j = dF_j/dx_i", "sum of the forces = 0"):
        (line,) = [one for one in printed.splitlines() if one.strip().startswith(title)]
        assert line.endswith("holds")


def test_targets_without_forces_say_what_was_not_checked(build, tmp_path, capsys):
    path = tmp_path / "m.nequip.pth"
    compile_model(build(num_layers=1, do_derivatives=False), path)
    assert set(read_verification_report(path)["physics"]["not_checked"]) == {
        "forces",
        "force_jacobian",
        "net_force",
    }
    assert "not checked: the target gives no forces" in capsys.readouterr().err
    assert main(["info", str(path)]) == 0
    assert "not checked: the target gives no forces" in capsys.readouterr().out


def test_skipped_verification_is_said_in_the_file(scripts, tmp_path, capsys):
    path = tmp_path / "m.nequip.pth"
    with zipfile.ZipFile(scripts["float64"][1]) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if not name.endswith(REPORT_NAME):
                new.writestr(name, old.read(name))
    note_skipped(path, "NEQUIP_SKIP_AOTI_MODEL_CHECK")
    capsys.readouterr()
    assert main(["info", str(path)]) == 0
    assert "no: skipped by NEQUIP_SKIP_AOTI_MODEL_CHECK=1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "report",
    [
        "[]",
        "{}",
        '{"fields": 3}',
        '{"fields": {"forces": 1}, "frames": 2, "physics": 5}',
        '{"fields": {"forces": {}}, "physics": {"checks": [1], "not_checked": 1, "frames": 0}}',
        '{"fields": {"forces": {}}, "physics": {"checks": {"forces": null}}}',
        "{",
        "\x00",
    ],
)
def test_edited_reports_end_in_lines_or_one_error(report, scripts, tmp_path, capsys):
    path = tmp_path / "m.nequip.pth"
    with zipfile.ZipFile(scripts["float64"][1]) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, report if name.endswith(REPORT_NAME) else old.read(name))
    code = main(["info", str(path)])
    printed = capsys.readouterr()
    assert code in (0, 1)
    assert printed.err.count("\n") == code
    # Nothing that was not proved is called proved.
    assert "  ok" not in printed.out
    assert "holds" not in printed.out


def test_tf32_has_a_tolerance_of_its_own(build, monkeypatch):
    model = prepared_model(build(num_layers=1, model_dtype="float32"), torch.device("cpu"))
    references = eager_references(model, ASE, frames_to_verify(model, ASE, torch.device("cpu")))

    def rounded(data):
        # As products of TF32 do.
        out = model(dict(data))
        return {**out, "forces": out["forces"] * (1.0 + 5e-4)}

    def passed(**options):
        return all(one.passed for one in compare_models(rounded, references, "float32", **options))

    assert not passed()
    assert passed(tf32=True)
    monkeypatch.setenv("NEQUIP_TF32_MODEL_TOL", "1e-4")
    assert not passed(tf32=True)
    monkeypatch.setenv("NEQUIP_TF32_MODEL_TOL", "none")
    with pytest.raises(ConfigError, match="NEQUIP_TF32_MODEL_TOL must be a positive number"):
        passed(tf32=True)


def test_one_percent_is_found_with_tf32_as_well(build):
    model = prepared_model(build(num_layers=1, model_dtype="float32"), torch.device("cpu"))
    references = eager_references(model, ASE, frames_to_verify(model, ASE, torch.device("cpu")))

    def wrong(data):
        out = model(dict(data))
        return {**out, "forces": out["forces"] * 1.01}

    comparisons = compare_models(wrong, references, "float32", tf32=True)
    assert [one.field for one in comparisons if not one.passed] == ["forces"]


def test_finite_differences_are_taken_without_tf32(scripts):
    compiled = load_compiled_model(scripts["float32"][1])
    compiled.allow_tf32 = True
    assert not uses_tf32(compiled)  # a CPU has none
    seen = []
    kind = type(compiled)
    original = kind.__call__

    def note(self, data):
        seen.append(self.allow_tf32)
        return original(self, data)

    kind.__call__ = note
    try:
        physics_of(compiled, target_of(compiled))
    finally:
        kind.__call__ = original
    assert seen
    assert not any(seen)
    assert compiled.allow_tf32


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_file_is_verified_again_by_itself(dtype, scripts, capsys):
    _, path = scripts[dtype]
    before = path.read_bytes()
    assert main(["verify", str(path)]) == 0
    printed = capsys.readouterr()
    assert "forces = -dE/dx" in printed.out
    assert "not compared with the eager model" in printed.out
    assert "error" not in printed.err
    assert path.read_bytes() == before


def test_file_is_compared_again_with_its_source(checkpoint, tmp_path, capsys):
    path = tmp_path / "m.nequip.pth"
    assert main([str(checkpoint), str(path), "--mode", "torchscript"]) == 0
    capsys.readouterr()
    assert main(["verify", str(path), str(checkpoint), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert report["not_compared"] == ""
    assert report["fields"]["forces"]["max_error"] <= report["fields"]["forces"]["allowed"]
    assert set(report["physics"]["checks"]) >= {"forces", "stress"}


def test_file_for_some_sizes_is_verified_on_those(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "bounded.nequip.pth"
    assert main([str(checkpoint), str(path), "--mode", "torchscript"]) == 0
    loaded = load_compiled_model(path)
    loaded.metadata["nequip_sizes"] = "2,inf 12,100 2,inf"
    monkeypatch.setattr(reverification, "load_compiled_model", lambda *_: loaded)
    found, report = verify_again(path, checkpoint)
    assert found.passed
    assert found.comparisons
    assert "example 1" in report["frames"]
    assert "single atom" not in report["frames"]
    assert report["physics"]["not_checked"] == {
        "forces": "the file was compiled for some sizes only"
    }


def test_other_sources_are_found_out(checkpoint, scripts, tmp_path, capsys):
    # The checkpoint is of two layers, the file of one.
    path = scripts["float64"][1]
    assert main(["verify", str(path), str(checkpoint)]) == 1
    printed = capsys.readouterr()
    assert "FAILED" in printed.out
    assert "error: the compiled model does not reproduce the eager one" in printed.err
    for source, message in (
        (tmp_path / "no.ckpt", "does not exist"),
        (path, "is no saved model"),
    ):
        assert main(["verify", str(path), str(source)]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error


def test_file_that_contradicts_itself_is_found_out_later(
    build, wrapped, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "m.nequip.pth"
    with monkeypatch.context() as without_checks:
        without_checks.setattr("nequip_compile.torchscript.verify_compiled", lambda path, *rest: [])
        compile_model(wrapped(build(num_layers=1), turned, False), path)
    assert main(["verify", str(path)]) == 1
    printed = capsys.readouterr()
    assert "DOES NOT HOLD" in printed.out
    assert "error: the compiled model contradicts itself" in printed.err


def test_source_beside_the_file_is_taken_if_it_is_the_same(tmp_path):
    path, source = tmp_path / "m.nequip.pth", tmp_path / "m.ckpt"
    source.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    metadata = {SOURCE_KEY: "m.ckpt", SOURCE_DIGEST_KEY: digest}
    assert source_of(path, metadata) == (source, "")
    assert source_of(path, {})[0] is None
    # Metadata of a stranger's file leads nowhere else.
    assert source_of(path, {**metadata, SOURCE_KEY: "../elsewhere/m.ckpt"}) == (source, "")
    source.write_bytes(b"other weights")
    found, reason = source_of(path, metadata)
    assert found is None
    assert "is another file" in reason
    source.unlink()
    assert "is not beside it" in source_of(path, metadata)[1]


def test_target_is_the_registered_one_where_the_fields_are_the_same(scripts, tmp_path):
    compiled = load_compiled_model(scripts["float64"][1])
    compiled.inputs, compiled.outputs = BATCH.inputs, BATCH.outputs
    compiled.metadata["nequip_target"] = "batch"
    assert target_of(compiled) is BATCH
    compiled.outputs = ("forces",)
    own = target_of(compiled)
    assert (own.name, own.inputs, own.outputs) == ("custom", BATCH.inputs, ("forces",))
    assert own.dynamic_frames
    compiled.metadata["nequip_target"] = "of nobody"
    assert target_of(compiled).name == "custom"
    assert not custom_target(ASE.inputs, ASE.outputs).dynamic_frames


def test_source_of_other_types_is_refused(scripts, checkpoint, tmp_path):
    path = tmp_path / "m.nequip.pth"
    shutil.copy(scripts["float64"][1], path)
    other = {"type_names": "Cu Ag"}
    with zipfile.ZipFile(scripts["float64"][1]) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, other.get(name.rpartition("/")[2], old.read(name)))
    with pytest.raises(ConfigError, match="is another model than"):
        verify_again(path, checkpoint)
