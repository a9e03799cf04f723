"""Compiled files: what is refused before native code is loaded, and what a call needs."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from nequip_core.compiled import (
    CompiledModel,
    load_compiled_model,
    read_compiled_metadata,
)
from nequip_core.errors import (
    ConfigError,
    DataError,
    FileFormatError,
    MissingDependencyError,
    MissingFileError,
)
from nequip_core.precision import matrix_precision
from nequip_core.synthetic import synthetic_frame

METADATA = {
    "model_dtype": "float32",
    "type_names": "Cu Au",
    "num_types": "2",
    "r_max": "4.5",
    "per_edge_type_cutoff": "4.5 3.0 3.5 4.5",
    "allow_tf32": "0",
    "nequip_aoti_inputs": "pos edge_index atom_types cell edge_cell_shift",
    "nequip_aoti_outputs": "atomic_energy total_energy forces stress",
    "AOTI_DEVICE_KEY": "cpu",
}


def write(path: Path, metadata: dict[str, str] | None = None, **changes: str) -> Path:
    """Write a file with the members of a compiled model, but without native code."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        content = {**METADATA, **changes} if metadata is None else metadata
        name = "m/data/aotinductor/model/abc.wrapper_metadata.json"
        archive.writestr(name, json.dumps(content))
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "m.nequip.pt2")


class EchoLoader:
    """Stands for torch's runner: keeps the inputs and returns as many tensors as outputs."""

    def boxed_run(self, tensors):
        self.tensors = tensors
        return [torch.zeros(1)] * 4


def echo_model(**changes: str) -> CompiledModel:
    return CompiledModel(
        EchoLoader(), {**METADATA, **changes}, Path("m.nequip.pt2"), torch.device("cpu")
    )


def test_metadata_is_read_as_text(file):
    assert read_compiled_metadata(file) == METADATA


def test_metadata_is_read_without_torch(file):
    code = (
        "import sys; from nequip_core.compiled import read_compiled_metadata as read; "
        f"read({str(file)!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_attributes_are_parsed():
    model = echo_model()
    assert model.type_names == ["Cu", "Au"]
    assert model.r_max == 4.5
    assert model.model_dtype == "float32"
    assert model.per_edge_type_cutoff == [[4.5, 3.0], [3.5, 4.5]]
    assert model.inputs[0] == "pos"
    assert model.outputs[-1] == "stress"


def test_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        load_compiled_model(tmp_path / "no.nequip.pt2")


@pytest.mark.parametrize("name", ["m.pt2", "m.pth", "m.nequip.zip", ".nequip.pt2"])
def test_wrong_suffix_is_refused(tmp_path, name):
    with pytest.raises(FileFormatError, match=r"must end in \.nequip\.pt2 or \.nequip\.pth"):
        load_compiled_model(write(tmp_path / name))


def test_truncated_file_is_refused(file):
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(FileFormatError, match="damaged or cut short"):
        load_compiled_model(file)


def test_file_that_is_no_zip_is_refused(tmp_path):
    path = tmp_path / "m.nequip.pt2"
    path.write_text("not a model")
    with pytest.raises(FileFormatError, match="not a compiled model"):
        read_compiled_metadata(path)


def test_zip_without_a_model_is_refused(tmp_path):
    path = tmp_path / "m.nequip.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/readme", "hello")
    with pytest.raises(FileFormatError, match="no AOTInductor model"):
        read_compiled_metadata(path)


def test_file_without_our_metadata_is_refused(tmp_path):
    path = write(tmp_path / "m.nequip.pt2", {"AOTI_DEVICE_KEY": "cpu"})
    with pytest.raises(FileFormatError, match="without the metadata"):
        load_compiled_model(path)


def test_file_without_native_code_is_refused(file):
    with pytest.raises(FileFormatError, match="cannot load the compiled model"):
        load_compiled_model(file)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_other_device_is_refused(file, device):
    with pytest.raises(ConfigError, match="compiled for cpu, asked for cuda"):
        load_compiled_model(file, device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_with_and_without_index_are_one_kind(tmp_path, device):
    path = write(tmp_path / "m.nequip.pt2", AOTI_DEVICE_KEY="cuda")
    with pytest.raises(ConfigError, match=f"there is no device '{device}' here"):
        load_compiled_model(path, device)


def test_unknown_device_is_refused(file):
    with pytest.raises(ConfigError, match="'warp' is not a device"):
        load_compiled_model(file, "warp")


def test_other_torch_is_refused(tmp_path):
    path = write(tmp_path / "m.nequip.pt2", nequip_torch_version="2.3.0")
    with pytest.raises(FileFormatError, match=r"compiled with torch 2\.3\.0, this is torch"):
        load_compiled_model(path)


def test_other_machine_is_refused(tmp_path):
    path = write(tmp_path / "m.nequip.pt2", AOTI_MACHINE="pdp11")
    with pytest.raises(FileFormatError, match="compiled for pdp11"):
        load_compiled_model(path)


def test_missing_processor_features_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": False}, raising=False)
    path = write(tmp_path / "m.nequip.pt2", AOTI_CPU_ISA="AVX512 AVX512_VNNI")
    with pytest.raises(FileFormatError, match="processor with AVX512"):
        load_compiled_model(path)


def test_missing_custom_operations_are_named(tmp_path):
    path = write(tmp_path / "m.nequip.pt2", nequip_custom_ops_libs="no_such_kernels")
    with pytest.raises(MissingDependencyError, match="needs the module 'no_such_kernels'"):
        load_compiled_model(path)


def test_inputs_are_brought_to_order_dtype_and_layout():
    model = echo_model()
    frame = synthetic_frame(["Cu", "Au"], 4.5)
    pos = frame["pos"]
    frame["pos"] = pos.float().T.contiguous().T
    frame["edge_index"] = frame["edge_index"].T.contiguous().T.int()
    frame["cell"] = frame["cell"][0]
    frame["atom_types"] = frame["atom_types"].unsqueeze(1)
    assert set(model(frame)) == set(model.outputs)
    tensors = dict(zip(model.inputs, model._loader.tensors, strict=True))
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    assert tensors["pos"].dtype == torch.float64
    assert tensors["edge_index"].dtype == torch.int64
    assert tensors["cell"].shape == (1, 3, 3)
    assert tensors["atom_types"].shape == (8,)
    torch.testing.assert_close(tensors["pos"], pos, rtol=0, atol=1e-5)


def test_batch_fields_are_added_where_the_target_takes_them():
    inputs = f"{METADATA['nequip_aoti_inputs']} batch num_atoms"
    model = echo_model(nequip_aoti_inputs=inputs)
    frame = synthetic_frame(["Cu", "Au"], 4.5)
    model(frame)
    assert model._loader.tensors[-1].tolist() == [8]
    assert "batch" not in frame


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": None}, r"needs the input fields \['cell'\]"),
        ({"pos": torch.zeros(8, 2)}, r"'pos' must have shape \(any, 3\)"),
        ({"pos": torch.zeros(5, 3)}, "disagree in the number of atoms"),
        ({"edge_index": torch.zeros(3, 2).long()}, r"'edge_index' must have shape \(2, any\)"),
        ({"edge_index": torch.zeros(2, 2).long()}, "disagree in the number of edges"),
        ({"atom_types": torch.full((8,), 2)}, "'atom_types' must be from 0 to 1, got 2 to 2"),
        ({"atom_types": torch.zeros(8)}, "'atom_types' must hold integers"),
        ({"cell": torch.zeros(2, 3, 3)}, "one frame has one cell, got 2"),
        ({"batch": torch.arange(8), "num_atoms": torch.ones(8).long()}, "one frame at a time"),
        ({"pos": torch.zeros(8, 3, device="meta")}, "input 'pos' is on meta"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_unfit_inputs_are_refused(change, message):
    frame = {**synthetic_frame(["Cu", "Au"], 4.5), **change}
    frame = {key: value for key, value in frame.items() if value is not None}
    with pytest.raises(DataError, match=message):
        echo_model()(frame)


MATMUL = torch.backends.cuda.matmul
# Torch before 2.9 knows `allow_tf32` alone.
PRECISIONS = {"fp32_precision": ["none", "ieee", "tf32"]}
if not hasattr(MATMUL, "fp32_precision"):
    PRECISIONS = {"allow_tf32": [False, True]}
((PRECISION, BEFORE),) = PRECISIONS.items()


@pytest.mark.parametrize("before", BEFORE)
def test_precision_of_a_file_holds_for_a_call_only(before):
    outside = getattr(MATMUL, PRECISION)
    setattr(MATMUL, PRECISION, before)
    try:
        for allowed in (True, False):
            with matrix_precision(allowed, torch.device("cuda")):
                assert (getattr(MATMUL, PRECISION) in ("tf32", True)) == allowed
            assert getattr(MATMUL, PRECISION) == before
            with matrix_precision(allowed, torch.device("cpu")):
                assert getattr(MATMUL, PRECISION) == before
    finally:
        setattr(MATMUL, PRECISION, outside)


def test_edited_metadata_are_refused(tmp_path):
    edits = {"num_types": "5", "r_max": "-1", "type_names": "Cu Cu", "model_dtype": "half"}
    for key, text in {**edits, "per_edge_type_cutoff": "4.5 3.0"}.items():
        path = write(tmp_path / "m.nequip.pt2", **{key: text})
        with pytest.raises(FileFormatError, match=key):
            load_compiled_model(path)


def test_metadata_that_contradict_the_code_are_an_error_of_the_file():
    model = echo_model(nequip_aoti_outputs="total_energy forces")
    with pytest.raises(FileFormatError, match="returns 4 fields, they name"):
        model(synthetic_frame(["Cu", "Au"], 4.5))
