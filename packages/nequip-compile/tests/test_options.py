"""Options of Inductor have types; information on files needs neither torch nor native code."""

import json
import subprocess
import sys
import time
import zipfile

import pytest
import torch

from nequip_compile.command import main
from nequip_compile.inductor_options import CONSTANT_FOLD, inductor_options
from nequip_compile.modified import modified_model
from nequip_compile.report import add_report
from nequip_core.compiled_metadata import read_verification_report
from nequip_core.errors import CompileError, ConfigError

METADATA = {
    "model_dtype": "float32",
    "type_names": "Cu Au",
    "num_types": "2",
    "r_max": "4.5",
    "per_edge_type_cutoff": "4.5 3.0 3.5 4.5",
    "allow_tf32": "1",
    "nequip_aoti_inputs": "pos edge_index",
    "nequip_aoti_outputs": "forces",
    "AOTI_DEVICE_KEY": "cuda",
    "AOTI_CPU_ISA": "AVX512",
}


@pytest.fixture
def file(tmp_path):
    """The members of a compiled model for a GPU that is not here, without native code."""
    path = tmp_path / "m.nequip.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/data/aotinductor/model/a.wrapper_metadata.json", json.dumps(METADATA))
    return path


def test_values_have_the_type_of_the_default():
    words = [
        "max_autotune=True",
        "cpp.threads=4",
        "aot_inductor.compile_wrapper_opt_level=O0",
        "triton.cudagraphs=0",
    ]
    assert inductor_options(words) == {
        "max_autotune": True,
        "cpp.threads": 4,
        "aot_inductor.compile_wrapper_opt_level": "O0",
        "triton.cudagraphs": False,
    }
    assert inductor_options([], constant_fold=True) == {CONSTANT_FOLD: True}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["max_autotune"], "takes key=value, got 'max_autotune'"),
        (["max_autotun=1"], "did you mean 'max_autotune'"),
        (["max_autotune=2"], "of type bool .*, got '2'"),
        (["cpp.threads=many"], "of type int .*, got 'many'"),
        (["max_autotune=1", "max_autotune=0"], "given twice"),
        (["aot_inductor.metadata={}"], "set by nequip-compile itself"),
        (["aot_inductor.output_path=x"], "set by nequip-compile itself"),
    ],
)
def test_wrong_options_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        inductor_options(words)


def test_constant_folding_is_said_once():
    with pytest.raises(ConfigError, match="give either --constant-fold"):
        inductor_options([f"{CONSTANT_FOLD}=0"], constant_fold=True)


def test_modifiers_see_that_the_model_will_be_compiled(build):
    model = build(num_layers=1)
    seen = []
    kind = type(model.model) if hasattr(model, "model") else type(model)

    def note(cls, model):
        seen.append(model.is_compile_graph_model)
        return model

    note._nequip_model_modifier_is_persistent = False
    note._nequip_model_modifier_supported_compile_modes = ["aotinductor"]
    kind.enable_Note = classmethod(note)
    try:
        assert modified_model(model, ["enable_Note"], "cpu", "aotinductor") is model
        with pytest.raises(ConfigError, match="cannot be compiled in mode 'torchscript'"):
            modified_model(model, ["enable_Note"], "cpu", "torchscript")
    finally:
        del kind.enable_Note
    assert seen == [True]
    assert not model.is_compile_graph_model
    assert not any(part.training for part in model.modules())


def test_information_is_complete(file, capsys):
    assert main(["info", str(file)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["mode"] == "aotinductor"
    assert lines["device"] == "cuda"
    assert lines["r_max"] == "4.5"
    assert lines["TF32"] == "on"
    assert lines["AOTI_CPU_ISA"] == "AVX512"
    report = {"fields": {"forces": {"max_error": 1e-9, "allowed": 1e-8, "passed": True}}}
    add_report(file, report)
    assert read_verification_report(file) == report
    assert main(["info", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "cutoffs of Au           Cu 3.5 Au 4.5" in printed
    assert "max error 1.0e-09, allowed 1.0e-08" in printed
    assert main(["info", str(file), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["metadata"] == METADATA
    assert content["verification"] == report


def test_report_that_cannot_be_written_is_an_error(file):
    with pytest.raises(CompileError, match="is the disk full"):
        add_report(file.parent, {})


def test_information_hides_no_control_characters(file, tmp_path, capsys):
    bad = tmp_path / "bad.nequip.pt2"
    with zipfile.ZipFile(bad, "w") as archive:
        name = "m/data/aotinductor/model/a.wrapper_metadata.json"
        archive.writestr(name, json.dumps({**METADATA, "note": "\x1b[2Jgone"}))
    assert main(["info", str(bad)]) == 0
    assert "\\x1b[2Jgone" in capsys.readouterr().out


def test_information_needs_no_torch_and_half_a_second(file):
    code = (
        "import sys; from nequip_compile.command import main;"
        f"code = main(['info', {str(file)!r}]); sys.exit(code or 'torch' in sys.modules)"
    )
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        times.append(time.perf_counter() - start)
        assert run.returncode == 0, run.stderr
    # 0.1 s on a quiet machine; others may be busy here.
    assert min(times) < 0.5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.nequip.pt2", None, "does not exist"),
        ("m.zip", b"", "must end in .nequip.pt2 or .nequip.pth"),
        ("m.nequip.pth", b"text", "not a compiled model"),
        ("m.nequip.pt2", b"text", "not a compiled model"),
    ],
)
def test_information_on_other_files_is_refused(name, content, message, tmp_path, capsys):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert main(["info", str(path)]) == 1
    assert message in capsys.readouterr().err


def test_information_on_edited_metadata_is_refused(tmp_path, capsys):
    path = tmp_path / "m.nequip.pt2"
    for change in ({"num_types": "5"}, {"r_max": "-1"}, {"per_edge_type_cutoff": "4.5 3.0"}):
        with zipfile.ZipFile(path, "w") as archive:
            name = "m/data/aotinductor/model/a.wrapper_metadata.json"
            archive.writestr(name, json.dumps({**METADATA, **change}))
        assert main(["info", str(path)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert "Traceback" not in error


def test_float64_form_computes_with_the_same_weights(build):
    from nequip_compile.verify import float64_form
    from nequip_core.synthetic import synthetic_frame

    single = build(model_dtype="float32", num_layers=1)
    double = float64_form(single)
    assert float64_form(build(num_layers=1)) is None
    frame = synthetic_frame(["Cu", "Au"], 4.0, seed=2)
    found, wanted = double(dict(frame))["forces"], single(dict(frame))["forces"]
    rounding = (found - wanted).abs().max() / found.abs().max()
    assert 1e-9 < float(rounding) < 1e-5
    assert {weight.dtype for weight in double.parameters()} == {torch.float64}
