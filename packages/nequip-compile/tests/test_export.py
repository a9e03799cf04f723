"""Export: dynamic sizes, and models that cannot be compiled."""

import pytest
import torch

from nequip_compile import aotinductor
from nequip_compile.export import dynamic_shapes, export_model
from nequip_core.compile_targets import ASE, BATCH, custom_target
from nequip_core.errors import CompileError
from nequip_core.synthetic import synthetic_frame


class Springs(torch.nn.Module):
    """Energy of springs between neighbors; subclasses spoil it in one way each."""

    def forward(self, data):
        with torch.enable_grad():
            pos = data["pos"].detach().requires_grad_(True)
            centre, neighbour = data["edge_index"]
            vectors = pos.index_select(0, neighbour) - pos.index_select(0, centre)
            energy = self.spoil(vectors.square().sum(-1), data).sum()
            (gradient,) = torch.autograd.grad([energy], [pos])
        return {"total_energy": energy.view(1, 1), "forces": -gradient}

    def spoil(self, terms, data):
        return terms


class BranchOnSize(Springs):
    def spoil(self, terms, data):
        return terms * 2 if data["pos"].shape[0] > 12 else terms + 1


class BranchOnValue(Springs):
    def spoil(self, terms, data):
        return terms * 2 if float(terms.sum()) > 1.0 else terms


TARGET = custom_target(("pos", "edge_index"), ("total_energy", "forces"))


@pytest.fixture(scope="module")
def examples():
    return [synthetic_frame(["Cu"], 4.0, num_atoms=count, periodic=False) for count in (10, 15)]


def test_atoms_and_edges_are_dynamic(examples):
    program = export_model(Springs(), TARGET, examples)
    frame = synthetic_frame(["Cu"], 4.0, num_atoms=23)
    wanted = Springs()(frame)
    found = program.module()(frame["pos"], frame["edge_index"])
    torch.testing.assert_close(found[0], wanted["total_energy"])
    torch.testing.assert_close(found[1], wanted["forces"])


def test_frames_are_dynamic_where_the_target_says_so():
    def axes(target):
        shapes = zip(target.inputs, dynamic_shapes(target), strict=True)
        return {name: {at: dim.__name__ for at, dim in shape.items()} for name, shape in shapes}

    assert axes(ASE) == {
        "pos": {0: "num_nodes"},
        "edge_index": {1: "num_edges"},
        "atom_types": {0: "num_nodes"},
        "cell": {},
        "edge_cell_shift": {0: "num_edges"},
    }
    assert axes(BATCH) == {
        **axes(ASE),
        "cell": {0: "num_frames"},
        "batch": {0: "num_nodes"},
        "num_atoms": {0: "num_frames"},
    }


def test_operations_that_depend_on_a_size_are_refused(examples):
    with pytest.raises(CompileError, match="different operations for inputs of different sizes"):
        export_model(BranchOnSize(), TARGET, examples)


def test_operations_that_depend_on_a_value_are_refused(examples):
    with pytest.raises(CompileError, match="the model cannot be traced"):
        export_model(BranchOnValue(), TARGET, examples)


def test_an_interrupt_that_the_compiler_wraps_stays_an_interrupt(monkeypatch, tmp_path):
    def wrapped(*arguments, **options):
        raise RuntimeError('TypeError: empty_strided() ... "KeyboardInterrupt: <EMPTY MESSAGE>"')

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", wrapped)
    with pytest.raises(KeyboardInterrupt):
        aotinductor._compile(None, tmp_path / "model.nequip.pt2", {})
