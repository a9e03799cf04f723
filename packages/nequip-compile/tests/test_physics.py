"""Finite differences find errors of one percent in forces and stress, and nothing in right ones."""

import pytest
import torch

from nequip_compile.physics import LARGEST_ALLOWED, STATEMENTS, check_physics, require_physics
from nequip_compile.structures import small_structures
from nequip_core.compile_targets import ASE, BATCH, PAIR_NEQUIP, custom_target
from nequip_core.errors import CompileError

TYPE_NAMES, R_MAX = ["Cu", "Au"], 4.0
FORCES_ONLY = custom_target(ASE.inputs, ("forces",))
WITHOUT_CELL = custom_target(("pos", "edge_index", "atom_types"), ("atomic_energy", "forces"))
MODELS = {
    "two layers": {},
    "l_max 3": {"l_max": 3, "num_layers": 1},
    "cutoffs by type pair": {
        "num_layers": 1,
        "per_edge_type_cutoff": {"Cu": {"Au": 3.5}, "Au": 3.0},
    },
    "large energies of isolated atoms": {"per_type_energy_shifts": {"Cu": -45000.0, "Au": -1.0}},
    "ZBL": {
        "num_layers": 1,
        "pair_potential": {
            "_target_": "nequip.nn.pair_potential.ZBL",
            "units": "metal",
            "chemical_species": ["Cu", "Au"],
        },
    },
}


@pytest.fixture(scope="module")
def models(build):
    """dtype -> model."""
    return {dtype: build(num_layers=1, model_dtype=dtype) for dtype in ("float32", "float64")}


def changed(model, change=lambda data, out: {}):
    """The model, some of its outputs replaced, in place of a compiled one."""

    def run(data):
        out = {name: value.detach() for name, value in model(dict(data)).items()}
        return {**out, **change(data, out)}

    return run


def physics(model, target, change=lambda data, out: {}):
    names = list(model.type_names)
    structures = small_structures(names, R_MAX)
    return check_physics(changed(model, change), target, structures, R_MAX, model.model_dtype)


def failed(result):
    return {one.name for one in result.checks if not one.passed}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_right_models_pass_with_tolerances_far_below_a_percent(name, dtype, build):
    result = physics(build(**MODELS[name], model_dtype=dtype), BATCH)
    assert [one.name for one in result.checks] == [
        "forces",
        "stress",
        "force_jacobian",
        "net_force",
    ]
    require_physics(result)
    assert result.not_checked == {}
    limit = 1e-6 if dtype == "float64" else 1e-3
    for one in result.checks:
        assert one.scale > 1e-3
        assert one.allowed < limit * one.scale


@pytest.mark.parametrize("target", [ASE, BATCH, PAIR_NEQUIP], ids=lambda target: target.name)
def test_every_target_is_checked(target, models):
    result = physics(models["float64"], target)
    require_physics(result)
    assert [one.name for one in result.checks] == [
        "forces",
        "virial" if target is PAIR_NEQUIP else "stress",
        "force_jacobian",
        "net_force",
    ]
    assert result.evaluations == 182
    assert result.frames == {"small cluster": 5, "small crystal": 3}


def every_force(data, out):
    return {"forces": out["forces"] * 1.01}


def one_component(data, out):
    return {"forces": out["forces"] * torch.tensor([1.0, 1.01, 1.0])}


def one_type(data, out):
    factor = torch.where(data["atom_types"] == 1, 1.01, 1.0)
    return {"forces": out["forces"] * factor[:, None]}


def turned(data, out):
    axis = torch.tensor([[0.3, -0.5, 0.81]], dtype=torch.float64)
    return {"forces": out["forces"] + 0.01 * torch.linalg.cross(axis, out["forces"])}


def one_distance(data, out):
    """As of a wrong kernel: neighbors push one percent more than they should, in one direction."""
    first, second = data["edge_index"]
    vector = data["pos"][second] - data["pos"][first]
    if "cell" in data:
        frame = data["batch"][first] if "batch" in data else torch.zeros_like(first)
        vector = vector + torch.einsum(
            "ei,eij->ej", data["edge_cell_shift"], data["cell"].reshape(-1, 3, 3)[frame]
        )
    size = 0.01 * out["forces"].abs().max()
    push = size * vector[:, :1] * torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    return {"forces": out["forces"].index_add(0, first, push * (vector.norm(dim=1) < 3.0)[:, None])}


WRONG_FORCES = [every_force, one_component, one_type, turned, one_distance]


@pytest.mark.parametrize("change", WRONG_FORCES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", [ASE, BATCH, PAIR_NEQUIP], ids=lambda target: target.name)
def test_one_percent_in_the_forces_is_found(change, dtype, target, models):
    result = physics(models[dtype], target, change)
    assert "forces" in failed(result)
    with pytest.raises(CompileError, match=r"'forces = -dE/dx' is off by .* in 'small"):
        require_physics(result)


@pytest.mark.parametrize("change", [one_component, one_type, turned, one_distance])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forces_that_are_no_gradient_are_found_without_an_energy(change, dtype, models):
    result = physics(models[dtype], FORCES_ONLY, change)
    assert "force_jacobian" in failed(result)
    assert result.not_checked == {"forces": "the target gives no energy"}


def test_forces_that_push_the_whole_frame_are_found(models):
    def pushed(data, out):
        return {"forces": out["forces"] + 1e-3}

    assert failed(physics(models["float32"], FORCES_ONLY, pushed)) == {"net_force"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_percent_of_the_energy_is_found(dtype, models):
    def more(data, out):
        return {name: out[name] * 1.01 for name in ("total_energy", "atomic_energy")}

    for target in (ASE, PAIR_NEQUIP):
        assert {"forces"} < failed(physics(models[dtype], target, more))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", [ASE, PAIR_NEQUIP], ids=lambda target: target.name)
def test_one_percent_of_stress_or_virial_is_found(target, dtype, models):
    name = "stress" if target is ASE else "virial"

    def more(data, out):
        return {name: out[name] * 1.01}

    def one_corner(data, out):
        wrong = out[name].clone()
        wrong[:, 2, 0] += 0.01 * wrong.abs().max()
        return {name: wrong}

    def other_sign(data, out):
        return {name: -out[name]}

    for change in (more, one_corner, other_sign):
        assert failed(physics(models[dtype], target, change)) == {name}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_types_beyond_the_first_frame_are_checked(dtype, build):
    names = [f"T{number}" for number in range(12)]
    model = build(type_names=names, per_type_energy_shifts=None, num_layers=1, model_dtype=dtype)

    def last_type(data, out):
        factor = torch.where(data["atom_types"] == 11, 1.01, 1.0)
        return {"forces": out["forces"] * factor[:, None]}

    result = physics(model, BATCH)
    assert failed(result) == set()
    assert set(result.frames) == {
        "small cluster",
        "small crystal",
        "cluster of types 5 to 9",
        "cluster of types 10 to 11",
    }
    wrong = physics(model, BATCH, last_type)
    assert "forces" in failed(wrong)
    assert "'cluster of types 10 to 11'" in {one.name: one for one in wrong.checks}["forces"].worst


def test_energies_too_coarse_to_tell_are_not_let_pass(models):
    def coarse(data, out):
        return {"total_energy": (out["total_energy"] * 100).round() / 100}

    result = physics(models["float32"], ASE, coarse)
    forces = {one.name: one for one in result.checks}["forces"]
    assert not forces.passed
    assert forces.allowed <= LARGEST_ALLOWED * forces.scale


def test_tolerances_of_the_environment_do_not_let_a_percent_pass(models, monkeypatch):
    monkeypatch.setenv("NEQUIP_FLOAT32_MODEL_TOL", "1.0")
    assert failed(physics(models["float32"], ASE)) == set()
    assert "forces" in failed(physics(models["float32"], ASE, every_force))


def test_wider_steps_are_taken_where_rounding_is_large(models):
    # A float32 model whose energies carry more rounding than usual.
    def rough(data, out):
        return {"total_energy": (out["total_energy"] * 3e6).round() / 3e6}

    plain, wide = physics(models["float32"], ASE), physics(models["float32"], ASE, rough)
    assert wide.evaluations > plain.evaluations
    assert failed(wide) == set()
    assert "forces" in failed(
        physics(models["float32"], ASE, lambda d, o: {**rough(d, o), **every_force(d, o)})
    )


@pytest.mark.parametrize("field", ["total_energy", "forces", "stress"])
def test_nan_is_found(field, models):
    result = physics(models["float64"], ASE, lambda data, out: {field: out[field] * torch.nan})
    assert failed(result)


def test_what_is_not_checked_is_said(models):
    nothing = physics(models["float64"], custom_target(ASE.inputs, ("edge_lengths",)))
    assert nothing.checks == []
    assert set(nothing.not_checked) == {"forces", "force_jacobian", "net_force"}
    assert set(nothing.not_checked.values()) == {"the target gives no forces"}
    stress = physics(models["float64"], custom_target(ASE.inputs, ("forces", "stress")))
    assert stress.not_checked["stress"] == "the target gives no energy"
    other = physics(models["float64"], custom_target((*ASE.inputs, "charge"), ASE.outputs))
    assert set(other.not_checked) == {"forces", "stress", "force_jacobian", "net_force"}
    assert "'charge'" in other.not_checked["forces"]
    assert set(nothing.not_checked) | {"stress", "virial"} == set(STATEMENTS)


def test_targets_without_a_cell_are_checked_on_the_cluster(models):
    result = physics(models["float64"], WITHOUT_CELL)
    assert list(result.frames) == ["small cluster"]
    assert failed(result) == set()
    assert "forces" in failed(physics(models["float64"], WITHOUT_CELL, turned))


def test_batches_are_evaluated_in_few_calls(models):
    calls = []

    def note(data, out):
        calls.append(data["pos"].shape[0])
        return {}

    result = physics(models["float64"], BATCH, note)
    assert result.evaluations == 182
    assert len(calls) == 6


def test_missing_and_misshapen_outputs_are_errors(models):
    structures = small_structures(TYPE_NAMES, R_MAX)
    with pytest.raises(CompileError, match="does not return 'forces'"):
        check_physics(lambda data: {}, FORCES_ONLY, structures, R_MAX, "float64")
    with pytest.raises(CompileError, match="'forces' of the compiled model has 4 numbers"):
        wrong = {"forces": torch.zeros(4)}
        check_physics(lambda data: wrong, FORCES_ONLY, structures, R_MAX, "float64")
