"""The comparison with the eager model finds what it should find, and nothing else."""

import pytest
import torch

from nequip_compile.physics import Physics
from nequip_compile.report import verification_table
from nequip_compile.verify import (
    compare_models,
    eager_references,
    require_agreement,
    verification_frames,
)
from nequip_core.compile_targets import ASE, BATCH
from nequip_core.errors import CompileError


@pytest.fixture(scope="module")
def references(build):
    frames = verification_frames(ASE, ["Cu", "Au"], 4.0)
    model = build(per_type_energy_shifts={"Cu": -45000.0, "Au": 0.0})
    return eager_references(model, ASE, frames)


def returning(references, change):
    """A model that returns the reference outputs after a change of one of them."""
    by_size = {tuple(r.inputs["edge_index"].shape): r for r in references.values()}

    def model(inputs):
        outputs = dict(by_size[tuple(inputs["edge_index"].shape)].outputs)
        return {**outputs, **change(outputs)}

    return model


def failed(comparisons):
    return [one.field for one in comparisons if not one.passed]


def test_frames_are_of_all_kinds():
    frames = verification_frames(BATCH, ["Cu", "Au"], 4.0)
    assert any(frame["edge_index"].shape[1] == 0 for frame in frames.values())
    assert any(not frame["pbc"].any() for frame in frames.values())
    cells = torch.cat([frame["cell"] for frame in frames.values()])
    assert bool((torch.linalg.det(cells) < -1.0).any())  # left-handed
    heights = [frame["pos"][:, 2] for title, frame in frames.items() if "planar" in title]
    assert len(heights) == 1
    assert not heights[0].any()
    assert {int(frame["num_atoms"].shape[0]) for frame in frames.values()} == {1, 2, 7}


def test_equal_models_agree(references):
    comparisons = compare_models(returning(references, lambda out: {}), references, "float64")
    assert [one.max_error for one in comparisons] == [0.0] * 4
    require_agreement(comparisons)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("field", ASE.outputs)
def test_a_relative_error_of_a_thousandth_is_found_in_every_field(references, field, dtype):
    isolated = {name: r.isolated[field] for name, r in references.items()}
    shift = max(float(values.abs().max()) for values in isolated.values())
    # Energies of isolated atoms, 45 000 here, must not hide an error of the interaction.
    model = returning(references, lambda out: {field: out[field] + 1e-3 * scale})
    scale = next(
        one.scale
        for one in compare_models(model_of(references), references, dtype)
        if one.field == field
    )
    comparisons = compare_models(model, references, dtype)
    assert shift == 0.0 or scale < 1e-3 * shift
    assert failed(comparisons) == [field]


def model_of(references):
    return returning(references, lambda out: {})


def test_rounding_is_let_pass(references):
    def rounded(out):
        return {"forces": out["forces"] * (1 + 1e-14)}

    assert failed(compare_models(returning(references, rounded), references, "float64")) == []


def test_nan_is_found(references):
    model = returning(references, lambda out: {"stress": out["stress"] * torch.nan})
    comparisons = compare_models(model, references, "float32")
    assert failed(comparisons) == ["stress"]
    assert "FAILED" in verification_table(comparisons, Physics([]))
    with pytest.raises(CompileError, match="'stress' differs by nan"):
        require_agreement(comparisons)


def test_other_shapes_are_refused(references):
    model = returning(references, lambda out: {"total_energy": out["total_energy"].sum()})
    with pytest.raises(CompileError, match="disagree in the shape of 'total_energy'"):
        compare_models(model, references, "float32")


def test_model_that_is_not_finite_is_refused_before_compilation(build):
    model = build()
    weights = [torch.full_like(weight, torch.nan) for weight in model.parameters()]
    torch.nn.utils.vector_to_parameters(
        torch.nn.utils.parameters_to_vector(weights), model.parameters()
    )
    with pytest.raises(CompileError, match="before compilation the model's 'atomic_energy'"):
        eager_references(model, ASE, verification_frames(ASE, ["Cu", "Au"], 4.0))
