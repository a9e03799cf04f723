"""Fingerprints: what is refused before native code is loaded, with the command that helps."""

import shlex

import pytest
import torch

from nequip_core import fingerprint
from nequip_core.compiled import load_compiled_model, read_compiled_metadata
from nequip_core.errors import ConfigError, FileFormatError
from nequip_core.fingerprint import misfit, processor_features
from nequip_core.origin import Origin, compile_command
from nequip_core.synthetic import synthetic_frame

COMMAND = r"\. Compile the model again here: nequip-compile MODEL '?.*edited\.nequip\.pt2"
ABSENT = "AVX512_FICTION"

MISFITS = {
    "torch": ({"nequip_torch_version": "2.3.0"}, r"compiled with torch 2\.3\.0, this is torch 2"),
    "core": ({"nequip_core_version": "99.1.0"}, r"made with nequip-core 99\.1\.0, this is 0\."),
    "platform": ({"AOTI_PLATFORM": "beos"}, "compiled for beos, this is linux"),
    "machine": ({"AOTI_MACHINE": "pdp11"}, "compiled for pdp11, this is "),
    "instructions": ({"AOTI_CPU_ISA": f"AVX2 {ABSENT}"}, f"processor with {ABSENT}, which"),
    "features": ({"nequip_cpu_features": "avx512_fiction"}, f"processor with {ABSENT}, which"),
}


@pytest.fixture
def no_native_code(monkeypatch):
    """A loader of native code that must not be called."""
    calls = []

    def loader(*arguments):
        calls.append(arguments)
        raise AssertionError("native code was loaded")

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", loader)
    offered = {**fingerprint._offered(), "avx512_fiction": False}
    monkeypatch.setattr(fingerprint, "_offered", lambda: offered)
    yield
    assert calls == []


def test_a_file_of_this_machine_runs(springs):
    model = load_compiled_model(springs)
    frame = synthetic_frame(["Cu", "Au"], 4.5)
    torch.testing.assert_close(model(frame)["forces"], -frame["pos"], rtol=0, atol=0)


@pytest.mark.parametrize("changes, message", MISFITS.values(), ids=MISFITS)
def test_a_file_of_elsewhere_is_refused_with_the_command(edited, no_native_code, changes, message):
    path = edited(**changes)
    with pytest.raises(FileFormatError, match=message + f".*{COMMAND}"):
        load_compiled_model(path)


def test_a_file_for_another_kind_of_device_is_refused_with_the_command(edited, no_native_code):
    path = edited(AOTI_DEVICE_KEY="cuda")
    with pytest.raises(ConfigError, match=r"compiled for cuda, asked for cpu; .*--device cpu"):
        load_compiled_model(path, "cpu")


BROKEN = {
    "r_max": {"r_max": None},
    "inputs": {"nequip_aoti_inputs": None},
    "type names": {"type_names": ""},
    "num_types": {"num_types": "3"},
    "dtype": {"model_dtype": "float16"},
    "TF32 in double precision": {"allow_tf32": "1"},
    "TF32": {"allow_tf32": "maybe", "model_dtype": "float32"},
    "cutoffs": {"per_edge_type_cutoff": "4.5 nan 3 4"},
}


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN)
def test_missing_and_contradicting_metadata_are_refused(edited, no_native_code, changes):
    with pytest.raises(FileFormatError, match=r"compile the model again|damaged|model_dtype"):
        load_compiled_model(edited(**changes))


class FakeCUDA:
    """Two GPUs of compute capability 9.0."""

    def __init__(self, monkeypatch, capability=(9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_gpus_are_one_kind_and_compared_by_compute_capability(springs, monkeypatch, device):
    FakeCUDA(monkeypatch)
    metadata = {**read_compiled_metadata(springs), "AOTI_DEVICE_KEY": "cuda"}
    fitting = {**metadata, "AOTI_COMPUTE_CAPABILITY": "90"}
    assert misfit(fitting, device, springs) == ""
    other = {**metadata, "AOTI_COMPUTE_CAPABILITY": "80"}
    assert "compute capability 80, a GPU has 90" in misfit(other, device, springs)


def test_instructions_of_the_host_do_not_bind_a_file_for_a_gpu(springs, monkeypatch):
    FakeCUDA(monkeypatch)
    metadata = {**read_compiled_metadata(springs), "AOTI_COMPUTE_CAPABILITY": "90"}
    metadata |= {"AOTI_DEVICE_KEY": "cuda", "nequip_cpu_features": "avx512_fiction"}
    monkeypatch.setattr(fingerprint, "_offered", lambda: {"avx512_fiction": False})
    assert misfit(metadata, "cuda", springs) == ""


def test_torchscript_is_bound_to_no_machine(springs):
    metadata = {**read_compiled_metadata(springs), "AOTI_MACHINE": "pdp11"}
    metadata["nequip_torch_version"] = "2.3.0"
    assert misfit(metadata, "cpu", springs.with_name("m.nequip.pth")) == ""
    assert "pdp11" not in misfit(metadata, "cpu", springs)
    assert "torch 2.3.0" in misfit(metadata, "cpu", springs)


def test_features_of_this_processor_fit_it(edited):
    features = processor_features()
    assert "clflush" not in features
    assert all(name.islower() for name in features)
    load_compiled_model(edited(nequip_cpu_features=" ".join(features)))


def test_the_command_has_everything_that_made_the_file(tmp_path):
    metadata = {
        "nequip_source": "my alloy.nequip.zip",
        "nequip_source_model": "teacher",
        "nequip_modifiers": "enable_A enable_B",
        "nequip_target": "pair_nequip",
        "allow_tf32": "1",
    }
    path = tmp_path / "m.nequip.pt2"
    line = compile_command(metadata, path, "cuda")
    assert shlex.split(line) == [
        *("nequip-compile", "my alloy.nequip.zip", str(path), "--mode", "aotinductor"),
        *("--device", "cuda", "--model", "teacher", "--target", "pair_nequip"),
        *("--modifiers", "enable_A", "enable_B", "--tf32"),
    ]
    own = {"nequip_target": "custom", "nequip_aoti_inputs": "pos", "nequip_aoti_outputs": "forces"}
    assert compile_command(own, path, "cpu").endswith("--input-fields pos --output-fields forces")
    script = compile_command({}, tmp_path / "m.nequip.pth", "cpu")
    assert "--mode torchscript" in script


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path):
    line = compile_command({"nequip_source": "a\x1b[2Jb"}, tmp_path / "m.nequip.pt2", "cpu")
    assert line.isprintable()
    assert "\\x1b" in line


def test_a_source_is_found_by_content_and_never_outside_of_the_two_folders(tmp_path, monkeypatch):
    import hashlib

    beside, working = tmp_path / "beside", tmp_path / "working"
    beside.mkdir()
    working.mkdir()
    monkeypatch.chdir(working)
    compiled = beside / "m.nequip.pt2"
    digest = hashlib.sha256(b"weights").hexdigest()

    def found(name="a.ckpt", digest=digest):
        metadata = {"nequip_source": name, "nequip_source_digest": digest}
        return Origin.of(metadata).find(compiled)

    assert found() is None
    (working / "a.ckpt").write_bytes(b"weights")
    assert found().resolve() == working / "a.ckpt"
    (beside / "a.ckpt").write_bytes(b"others")
    assert found().resolve() == working / "a.ckpt"
    (beside / "a.ckpt").write_bytes(b"weights")
    assert found() == beside / "a.ckpt"
    (tmp_path / "b.ckpt").write_bytes(b"weights")
    assert found("../b.ckpt") is None
    assert found(str(tmp_path / "b.ckpt")) is None
    assert found(digest="") is None
    assert found("") is None
