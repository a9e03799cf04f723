"""A file compiled with kernels holds them: it runs in a process that has torch and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.fx.experimental.proxy_tensor

from nequip_core.compile_targets import ASE
from nequip_core.errors import CompileError
from nequip_core.synthetic import synthetic_frame
from nequip_kernels import embedding
from nequip_kernels.operation import Operation
from nequip_model.gnn import NequIPGNNModel
from nequip_model.modify import modify

TYPE_NAMES = ["Cu", "O"]
R_MAX = 4.0
PROGRAM = """
import sys, torch
run = torch._inductor.aoti_load_package(sys.argv[1])
kept = torch.load(sys.argv[2])
for found, expected in zip(run(*kept["inputs"]), kept["outputs"], strict=True):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
assert not [name for name in sys.modules if "nequip" in name]
"""


@pytest.mark.parametrize("tables", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")  # torch's compiler stack warns about itself
def test_a_compiled_file_runs_with_torch_alone(tmp_path, monkeypatch, tables):
    pytest.importorskip("nequip_compile", reason="it needs a newer torch than the kernels do")
    from nequip_compile.aotinductor import compile_model
    from nequip_compile.export import target_inputs

    monkeypatch.setenv("NEQUIP_SKIP_AOTI_MODEL_CHECK", "1")  # compared below, in another process
    plain = NequIPGNNModel(
        seed=1,
        model_dtype="float32",
        type_names=TYPE_NAMES,
        r_max=R_MAX,
        num_layers=2,
        l_max=1,
        num_features=4,
        radial_mlp_width=8,
        avg_num_neighbors=30.0,
        per_type_energy_scales=1.0,
        per_type_energy_shifts=0.0,
    ).eval()
    frame = ASE.prepare(synthetic_frame(TYPE_NAMES, R_MAX, num_atoms=14, seed=9))
    outputs = plain(dict(frame))
    kept = {
        "inputs": target_inputs(ASE, frame),
        "outputs": [outputs[name].detach() for name in ASE.outputs],
    }
    torch.save(kept, tmp_path / "kept.pt")
    modifiers = [{"modifier": "enable_RadialTable"}] if tables else []
    fast = modify(plain, [*modifiers, {"modifier": "enable_NequIPKernels", "backend": "cpu"}])
    before = os.environ.get("LIBRARY_PATH")
    compile_model(fast, tmp_path / "small.nequip.pt2", ASE)
    assert os.environ.get("LIBRARY_PATH") == before
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    files = [str(tmp_path / "small.nequip.pt2"), str(tmp_path / "kept.pt")]
    command = [sys.executable, "-I", "-W", "ignore", "-c", PROGRAM, *files]
    done = subprocess.run(command, capture_output=True, text=True, env=without, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def graph(kit):
    """Function to the graph of one convolution in a dtype."""

    def made(dtype):
        operation = Operation(kit.layer_signature(0, False, 4))
        tensors = kit.tensors_for(operation.signature, dtype)
        names = ("features", "harmonics", "weights", "centre", "neighbour")
        given = [tensors[name] for name in names]
        trace = torch.fx.experimental.proxy_tensor.make_fx(
            lambda *args: operation(*args), tracing_mode="fake"
        )(*given)
        return trace.graph

    return made


def test_a_graph_without_kernels_needs_no_options():
    with embedding.embedded_kernels(torch.fx.Graph(), torch.device("cpu")) as options:
        assert options == {}


def test_the_library_is_found_inside_only_and_is_gone_afterwards(graph, monkeypatch):
    monkeypatch.setenv("LIBRARY_PATH", "/elsewhere")
    with embedding.embedded_kernels(graph(torch.float32), torch.device("cpu")) as options:
        folder, rest = os.environ["LIBRARY_PATH"].split(os.pathsep)
        (name,) = options["aot_inductor.custom_op_libs"]
        assert Path(folder, f"lib{name}.a").is_file()
        assert rest == "/elsewhere"
        assert len(options["aot_inductor.custom_ops_to_c_shims"]) == 7
    assert os.environ["LIBRARY_PATH"] == "/elsewhere"
    assert not Path(folder).exists()


def test_a_file_for_another_device_is_refused(graph):
    given = graph(torch.float32), torch.device("cuda")
    with pytest.raises(CompileError, match="for the CPU only, not for 'cuda'"):
        embedding.embedded_kernels(*given).__enter__()


def test_a_dtype_without_kernels_is_refused(graph):
    given = graph(torch.bfloat16), torch.device("cpu")
    with pytest.raises(CompileError, match=r"not for torch\.bfloat16"):
        embedding.embedded_kernels(*given).__enter__()


def test_without_a_compiler_the_reason_is_named(graph, monkeypatch):
    traced = graph(torch.float32)
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(CompileError, match=r"there is no C\+\+ compiler"):
        embedding.embedded_kernels(traced, torch.device("cpu")).__enter__()
