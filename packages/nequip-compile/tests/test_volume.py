"""The volume of a cell is a triple product: torch's determinant has no place in compiled code."""

import json
import zipfile

import pytest
import torch

from nequip_compile.export import export_model
from nequip_compile.preparation import example_frames, prepared_model
from nequip_core.compile_targets import ASE, BATCH, PAIR_NEQUIP
from nequip_core.compiled import load_compiled_model
from nequip_core.fields import CELL_KEY, EDGE_CELL_SHIFT_KEY, POSITIONS_KEY
from nequip_core.synthetic import synthetic_frame

CPU = torch.device("cpu")


def stress_by_determinant(out):
    """What other implementations do: divide by the determinant."""
    volume = torch.linalg.det(out[CELL_KEY]).abs().reshape(-1, 1, 1)
    return {"stress": -out["virial"] / volume}


def operators(model, target):
    """Names of the operators that a model is exported to."""
    model = prepared_model(model, CPU)
    program = export_model(model, target, example_frames(model, target, CPU))
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


def determinants(names):
    return sorted(name for name in names if "det" in name.replace("detach", ""))


@pytest.mark.parametrize("target", [ASE, BATCH, PAIR_NEQUIP], ids=lambda target: target.name)
def test_exported_graph_has_no_determinant(target, build):
    names = operators(build(num_layers=1), target)
    assert len(names) > 20
    assert determinants(names) == []
    assert not any("linalg_lu" in name or "linalg_solve" in name for name in names)


def test_a_determinant_would_be_seen(build, wrapped):
    assert determinants(operators(wrapped(build(num_layers=1), stress_by_determinant), ASE))


def texts(path):
    """Everything readable in a compiled file: code, metadata, what goes through the proxy."""
    with zipfile.ZipFile(path) as archive:
        return {
            name: archive.read(name).decode()
            for name in archive.namelist()
            if name.endswith((".cpp", ".json", ".h"))
        }


@pytest.mark.parametrize("file", ["for_ase", "for_batches", "for_lammps"])
def test_compiled_file_has_neither_determinant_nor_proxy_call(file, request):
    found = texts(request.getfixturevalue(file))
    assert any(name.endswith(".cpp") for name in found)
    assert any(name.endswith("_metadata.json") for name in found)
    for text in found.values():
        assert "linalg_det" not in text
        assert "proxy_executor_call_function" not in text
    for name, text in found.items():
        # Operators without a function in C are listed here, to be called by the proxy.
        if name.endswith(".json") and "nodes" in json.loads(text):
            assert json.loads(text)["nodes"] == []


def test_left_handed_cells_have_the_same_stress(for_ase, build):
    frame = synthetic_frame(["Cu", "Au"], 4.0, num_atoms=9, seed=4)
    order = [1, 0, 2]
    left = {
        **frame,
        CELL_KEY: frame[CELL_KEY][:, order],
        EDGE_CELL_SHIFT_KEY: frame[EDGE_CELL_SHIFT_KEY][:, order],
        POSITIONS_KEY: frame[POSITIONS_KEY],
    }
    assert float(torch.linalg.det(left[CELL_KEY])) < 0.0 < float(torch.linalg.det(frame[CELL_KEY]))
    compiled = load_compiled_model(for_ase)
    wanted = build()(dict(frame))["stress"].detach()
    for one in (frame, left):
        torch.testing.assert_close(compiled(one)["stress"], wanted, rtol=1e-10, atol=1e-12)
