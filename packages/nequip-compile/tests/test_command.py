"""The command: what it accepts and refuses, and that nothing half-made is left behind."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nequip_compile import aotinductor
from nequip_compile.aotinductor import compile_model
from nequip_compile.command import main
from nequip_core.compile_targets import ASE, custom_target
from nequip_core.compiled_metadata import REPORT_NAME, read_verification_report
from nequip_core.errors import CompileError, ConfigError


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "model.nequip.pt2"


@pytest.fixture
def compiled_before(monkeypatch, for_ase):
    """In place of compiling, take the file of `for_ase`: the rest of the way stays as it is."""

    def copy_without_report(program, path, options):
        with zipfile.ZipFile(for_ase) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                if not name.endswith(REPORT_NAME):
                    new.writestr(name, old.read(name))

    monkeypatch.setattr(aotinductor, "_compile", copy_without_report)


@pytest.fixture
def traced_before(monkeypatch, compiled_before):
    """Leave tracing out as well."""
    monkeypatch.setattr(aotinductor, "trace_model", lambda model, target, examples: None)
    nothing = SimpleNamespace(graph=torch.fx.Graph())
    monkeypatch.setattr(aotinductor, "export_trace", lambda trace, target, example, bounds: nothing)


def nothing_left(folder):
    return not folder.exists() or list(folder.iterdir()) == []


def test_help_does_not_import_torch():
    code = (
        "import sys; from nequip_compile.command import main\n"
        "try: main(['--help'])\nexcept SystemExit: sys.exit('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0
    words = " ".join(run.stdout.split())
    assert re.search(r"\base, batch, (\w+, )*pair_nequip\b", words), words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "magic", "--target", "ase"], "invalid choice: 'magic'"),
        (["--mode", "torchscript", "--input-fields", "pos"], "give --target, or both"),
        (
            ["--mode", "torchscript", "--inductor-configs", "max_autotune=1"],
            "are for --mode aotinductor",
        ),
        (["--target", "pair_neqip"], "did you mean 'pair_nequip'"),
        ([], "give --target, or both --input-fields and --output-fields"),
        (["--input-fields", "pos"], "give --target, or both"),
        (["--target", "ase", "--output-fields", "forces"], "give either --target, or"),
    ],
)
def test_wrong_usage_ends_with_code_2(words, message, checkpoint, output, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(checkpoint), str(output), *words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert nothing_left(output.parent)


def test_errors_end_with_code_1_and_one_message(checkpoint, output, tmp_path, capsys):
    other = tmp_path / "model.txt"
    other.write_text("hello")
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(checkpoint.read_bytes()[:1000])
    folder = tmp_path / "folder.nequip.pt2"
    folder.mkdir()
    cases = [
        (tmp_path / "no.ckpt", output, [], "does not exist"),
        (other, output, [], "is no saved model"),
        (broken, output, [], "not a checkpoint, or a damaged one"),
        (checkpoint, tmp_path / "model.pt2", [], "must end in .nequip.pt2"),
        (checkpoint, tmp_path / "a.nequip.pth", [], "must end in .nequip.pt2"),
        (checkpoint, output, ["--mode", "torchscript"], "must end in .nequip.pth"),
        (checkpoint, output, ["--modifiers", "enable_Magic"], "has no modifier 'enable_Magic'"),
        (checkpoint, output, ["--tf32"], "TF32 is for models with model_dtype float32"),
        (
            checkpoint,
            output,
            ["--inductor-configs", "max_autotun=1"],
            "no option 'max_autotun'",
        ),
        (checkpoint, output, ["--data-path", "no.pt"], "no data file at 'no.pt'"),
        (checkpoint, output, ["--data-path", str(other)], "is no TorchScript module"),
        (checkpoint, folder, [], "a folder is in its place"),
        (checkpoint, output, ["--model", "other"], "has no model 'other'"),
        (checkpoint, output, ["--device", "warp"], "'warp' is not a device"),
    ]
    for source, target, words, message in cases:
        assert main([str(source), str(target), "--target", "ase", *words]) == 1
        error = capsys.readouterr().err
        assert f"error: {error.partition('error: ')[2]}" in error
        assert message in error
        assert "Traceback" not in error
        assert nothing_left(output.parent)


def test_success_is_reported_with_stages_and_a_table(traced_before, checkpoint, output, capsys):
    assert main([str(checkpoint), str(output), "--target", "ase"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"wrote {output} (")
    for part in ("tracing for target 'ase' ... ", "compiling for cpu", "comparing with the eager"):
        assert part in printed.err
    rows = {line.split()[0]: line for line in printed.err.splitlines() if line.endswith("ok")}
    assert list(rows) == list(ASE.outputs)
    assert list(output.parent.iterdir()) == [output]
    report = read_verification_report(output)
    assert list(report["fields"]) == list(ASE.outputs)
    assert all(field["passed"] for field in report["fields"].values())
    assert {"slab", "single atom", "cluster"} <= set(report["frames"])


def test_packages_are_compiled_like_checkpoints(compiled_before, checkpoint, output, tmp_path):
    from nequip_core.saved_model import load_saved_model
    from nequip_package.build import build_package

    package = build_package(load_saved_model(checkpoint), tmp_path / "small.nequip.zip")
    assert main([str(package), str(output), "--target", "ase"]) == 0
    assert output.exists()


def test_disagreement_with_the_eager_model_leaves_no_file(traced_before, build, output, capsys):
    with pytest.raises(CompileError, match=r"'forces' differs by .* \(allowed .*\) in the frame"):
        compile_model(build(seed=8), output, ASE)
    assert "FAILED" in capsys.readouterr().err
    assert nothing_left(output.parent)


def test_disagreement_keeps_an_existing_file(traced_before, build, output):
    output.parent.mkdir()
    output.write_text("an older model")
    with pytest.raises(CompileError):
        compile_model(build(seed=8), output, ASE)
    assert output.read_text() == "an older model"


def test_check_can_be_skipped_by_the_environment(traced_before, build, output, monkeypatch, capsys):
    monkeypatch.setenv("NEQUIP_SKIP_AOTI_MODEL_CHECK", "1")
    assert compile_model(build(seed=8), output, ASE) == []
    assert "not compared with the eager model" in capsys.readouterr().err
    assert output.exists()


def test_code_that_may_write_outside_of_its_memory_is_refused(
    traced_before, build, output, monkeypatch
):
    def write(program, path, options):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/data/aotinductor/model/a.kernel.cpp", "atomic_add_vec<float, 2>(")

    monkeypatch.setattr(aotinductor, "_compile", write)
    with pytest.raises(CompileError, match=r"torch\.index_select in place of"):
        compile_model(build(), output, ASE)
    assert nothing_left(output.parent)


def test_missing_compiler_is_said_before_anything_else(build, output, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompileError, match="needs a C\\+\\+ compiler"):
        compile_model(build(), output, ASE)
    assert nothing_left(output.parent)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_missing_device_is_refused(build, output):
    with pytest.raises(ConfigError, match="there is no device 'cuda' here"):
        compile_model(build(), output, ASE, "cuda")


def test_fields_that_are_not_computed_are_refused(build, output):
    with pytest.raises(ConfigError, match=r"does not compute the output fields \['dipole'\]"):
        compile_model(build(), output, custom_target(ASE.inputs, ("forces", "dipole")))
    with pytest.raises(ConfigError, match=r"does not compute the output fields \['forces'"):
        compile_model(build(do_derivatives=False), output, ASE)


def test_fields_that_are_not_made_are_refused(build, output):
    with pytest.raises(ConfigError, match=r"takes the input fields \['charge'\]"):
        compile_model(build(), output, custom_target((*ASE.inputs, "charge"), ("forces",)))


def test_other_modules_are_refused(output):
    with pytest.raises(CompileError, match="expected a graph model, got Linear"):
        compile_model(torch.nn.Linear(1, 1), output, ASE)


def test_code_of_a_package_runs_by_consent(compiled_before, output, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv("NEQUIP_TRUST_CODE", raising=False)
    # The way of the consent alone: the compiled file of another model would not be equal.
    seen = []
    monkeypatch.setattr(
        aotinductor, "compile_models", lambda model, *rest, **settings: seen.append(model)
    )
    golden = Path(__file__).parents[3] / "tests/golden/format2-nequip-0.1.0/model.nequip.zip"
    words = [str(golden), str(output), "--target", "ase"]
    assert main(words) == 1
    printed = capsys.readouterr().err
    assert f"nequip-package audit '{golden}'" in printed
    assert "--trust-code" in printed
    assert not seen
    output.parent.mkdir()
    output.touch()
    assert main([*words, "--trust-code"]) == 0
    assert len(seen) == 1


@pytest.mark.filterwarnings("ignore")  # raised by the code of NequIP
def test_a_package_with_code_of_nequip_is_refused_with_the_way_out(output, tmp_path, capsys):
    reference = Path(__file__).parents[3] / "tests/golden/reference/0.19.1/basic.nequip.zip"
    package = tmp_path / "theirs.nequip.zip"  # kept compressed there, and read stored only
    with zipfile.ZipFile(reference) as source, zipfile.ZipFile(package, "w") as sink:
        for entry in source.infolist():
            sink.writestr(entry.filename, source.read(entry))
    options = ["--mode", "aotinductor", "--device", "cpu", "--target", "ase", "--trust-code"]
    assert main([str(package), str(output), *options]) == 1
    assert "nequip-package convert makes a package" in capsys.readouterr().err
    assert nothing_left(output.parent)
