"""Compiled models give what the eager models give, and say what they are."""

import json
import subprocess
import sys
import zipfile

import pytest
import torch

import nequip_core
from nequip_compile import __version__
from nequip_compile.verify import verification_frames
from nequip_core.compile_targets import ASE, BATCH, PAIR_NEQUIP
from nequip_core.compiled import load_compiled_model, read_compiled_metadata
from nequip_core.fingerprint import processor_features
from nequip_core.frames import batched_from_list, frame_from_batched
from nequip_core.synthetic import synthetic_frame

TYPE_NAMES, R_MAX = ["Cu", "Au"], 4.0


def frames():
    """Frames of other sizes than those that compilation has seen."""
    return {
        "crystal": synthetic_frame(TYPE_NAMES, R_MAX, num_atoms=50, seed=21),
        "small cell": synthetic_frame(TYPE_NAMES, R_MAX, num_atoms=2, seed=22),
        "molecule": synthetic_frame(TYPE_NAMES, R_MAX, periodic=False, num_atoms=9, seed=23),
        "dimer": synthetic_frame(TYPE_NAMES, R_MAX, periodic=False, num_atoms=2, seed=24),
        "one atom": verification_frames(ASE, TYPE_NAMES, R_MAX)["single atom"],
    }


@pytest.mark.parametrize("name", frames())
def test_float64_outputs_equal_the_eager_ones(name, for_ase, build):
    frame = frames()[name]
    found, wanted = load_compiled_model(for_ase)(frame), build()(dict(frame))
    assert list(found) == list(ASE.outputs)
    for field in ASE.outputs:
        torch.testing.assert_close(found[field], wanted[field], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", frames())
def test_float32_outputs_equal_the_eager_ones(name, for_lammps, single_precision):
    frame = frames()[name]
    found, wanted = load_compiled_model(for_lammps)(frame), single_precision(dict(frame))
    assert list(found) == list(PAIR_NEQUIP.outputs)
    for field in PAIR_NEQUIP.outputs:
        assert found[field].dtype == torch.float64
        scale = max(1.0, float(wanted["forces"].abs().max()))
        torch.testing.assert_close(found[field], wanted[field], rtol=0, atol=5e-5 * scale)


def test_batched_outputs_equal_those_of_single_frames(for_batches, build):
    model, eager = load_compiled_model(for_batches), build(num_layers=1)
    batch = batched_from_list(list(frames().values()))
    out = {**batch, **model(batch)}
    for index, frame in enumerate(frames().values()):
        wanted, found = eager(dict(frame)), frame_from_batched(out, index)
        for field in BATCH.outputs:
            torch.testing.assert_close(found[field], wanted[field], rtol=1e-10, atol=1e-10)


def test_one_frame_needs_no_batch_fields(for_batches, build):
    frame = frames()["molecule"]
    found, wanted = load_compiled_model(for_batches)(frame), build(num_layers=1)(dict(frame))
    torch.testing.assert_close(found["forces"], wanted["forces"], rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning")
@pytest.mark.parametrize("target", [ASE, PAIR_NEQUIP], ids=lambda target: target.name)
def test_plain_loader_takes_the_documented_order(target, request, build, single_precision):
    fixture, eager = {
        "ase": ("for_ase", build()),
        "pair_nequip": ("for_lammps", single_precision),
    }[target.name]
    path = request.getfixturevalue(fixture)
    frame = frames()["crystal"]
    model = torch._inductor.aoti_load_package(str(path))
    found = model(*[frame[name] for name in target.inputs])
    wanted = eager(dict(frame))
    assert len(found) == len(target.outputs)
    for field, value in zip(target.outputs, found, strict=True):
        torch.testing.assert_close(value, wanted[field], rtol=1e-5, atol=1e-5)


def test_metadata_has_every_documented_key(for_lammps):
    metadata = read_compiled_metadata(for_lammps)
    ours = {key: value for key, value in metadata.items() if not key.startswith("AOTI_")}
    assert ours == {
        "model_dtype": "float32",
        "type_names": "Cu Au",
        "num_types": "2",
        "r_max": "4.0",
        "per_edge_type_cutoff": "4.0 3.5 3.0 3.0",
        "allow_tf32": "0",
        "nequip_aoti_inputs": "pos edge_index atom_types cell edge_cell_shift",
        "nequip_aoti_outputs": "atomic_energy forces virial",
        "nequip_torch_version": torch.__version__,
        "nequip_compile_version": __version__,
        "nequip_core_version": nequip_core.__version__,
        "nequip_cpu_features": " ".join(processor_features()),
        "nequip_target": "pair_nequip",
    }
    assert metadata["AOTI_DEVICE_KEY"] == "cpu"


def test_cutoffs_are_left_out_where_there_are_none(for_ase):
    assert "per_edge_type_cutoff" not in read_compiled_metadata(for_ase)


def test_loaded_model_knows_the_metadata(for_lammps):
    model = load_compiled_model(for_lammps, torch.device("cpu"))
    assert model.type_names == TYPE_NAMES
    assert model.per_edge_type_cutoff == [[4.0, 3.5], [3.0, 3.0]]
    assert (model.r_max, model.model_dtype) == (R_MAX, "float32")


def generated_code(path):
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".cpp")]
        assert names
        return "\n".join(archive.read(name).decode() for name in names)


@pytest.mark.parametrize("file", ["for_ase", "for_lammps", "for_batches"])
def test_code_calls_no_operation_through_the_interpreter(file, request):
    # Such calls were wrong for stress in other implementations, and cost time.
    assert "proxy_executor_call_function" not in generated_code(request.getfixturevalue(file))


@pytest.mark.parametrize("file", ["for_ase", "for_lammps", "for_batches"])
def test_code_adds_nothing_atomically(file, request):
    # https://github.com/pytorch/pytorch/issues/191837: it may write outside of its memory.
    assert "atomic_add" not in generated_code(request.getfixturevalue(file))


def test_number_of_threads_is_not_written_into_the_code(for_ase):
    assert "#pragma omp parallel\n" in generated_code(for_ase)
    assert "num_threads(" not in generated_code(for_ase)


def test_running_needs_neither_compiler_stack_nor_model_code(for_ase, tmp_path):
    frame = frames()["crystal"]
    torch.save(frame, tmp_path / "frame.pt")
    code = f"""
import os, sys, torch
os.environ["PATH"] = ""
from nequip_core.compiled import load_compiled_model
out = load_compiled_model({str(for_ase)!r})(torch.load({str(tmp_path / "frame.pt")!r}))
unwanted = {{"nequip_model", "nequip_compile", "e3nn", "sympy"}}
print(out["total_energy"].item(), sorted(unwanted & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    energy, found = run.stdout.split(maxsplit=1)
    assert json.loads(found.replace("'", '"')) == []
    assert float(energy) == pytest.approx(
        load_compiled_model(for_ase)(frame)["total_energy"].item(), rel=1e-12
    )


def test_compiling_leaves_global_state_alone(for_batches, states_around_compilation):
    before, after = states_around_compilation
    assert [key for key in before if before[key] != after[key]] == []


def test_running_leaves_the_inputs_alone(for_ase):
    frame = frames()["crystal"]
    before = {key: value.clone() for key, value in frame.items()}
    load_compiled_model(for_ase)(frame)
    assert all(torch.equal(frame[key], value) for key, value in before.items())
