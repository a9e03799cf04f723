"""Trained models for further atom types."""

from __future__ import annotations

import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_model.architecture import build_described, describe
from nequip_model.gnn import NequIPGNNModel
from nequip_model.modify import modify
from nequip_model.new_types import ModelWithNewTypes
from nequip_model.presets import PresetNequIPGNNModel

NEW = {"N": "C", "F": "O"}  # types 3 and 4 start from types 1 and 2
KEYS = ("total_energy", "forces", "stress")


def trained(model):
    """Return the model with weights that are not those of its seed."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise.to(parameter.dtype))
    return model


@pytest.fixture(
    params=[
        {},
        {
            "avg_num_neighbors": {"H": 8.0, "C": 10.0, "O": 12.0},
            "per_edge_type_cutoff": {"H": 3.0, "C": {"O": 3.5}},
            "per_type_energy_scales": {"H": 1.0, "C": 2.0, "O": 3.0},
            "per_type_energy_shifts_trainable": True,
            "pair_potential": {
                "_target_": "nequip.nn.pair_potential.ZBL",
                "chemical_species": ["H", "C", "O"],
                "units": "metal",
            },
        },
    ],
    ids=["plain", "per type"],
)
def base(request, build):
    return trained(build(**request.param))


def outputs(model, frame):
    found = model(frame)
    return {key: found[key].detach() for key in KEYS}


def test_frames_without_new_types_have_the_outputs_that_they_had(base, crystal):
    extended = ModelWithNewTypes(base, NEW)
    assert extended.type_names == ["H", "C", "O", "N", "F"]
    assert not extended.training
    for key, value in outputs(base, crystal).items():
        torch.testing.assert_close(outputs(extended, crystal)[key], value, rtol=0, atol=1e-12)


def test_an_atom_of_a_new_type_is_at_first_like_one_of_the_known_type(build, crystal):
    base = trained(build())
    extended = ModelWithNewTypes(base, NEW)
    new = {**crystal, "atom_types": crystal["atom_types"].clone()}
    new["atom_types"][new["atom_types"] == 1] = 3
    new["atom_types"][new["atom_types"] == 2] = 4
    assert not torch.equal(new["atom_types"], crystal["atom_types"])
    for key, value in outputs(base, crystal).items():
        torch.testing.assert_close(outputs(extended, new)[key], value, rtol=0, atol=1e-12)


def test_a_repulsion_of_nuclei_is_that_of_the_new_element():
    potential = {
        "_target_": "nequip.nn.pair_potential.ZBL",
        "chemical_species": ["H", "C"],
        "units": "metal",
    }
    arguments = {"seed": 1, "model_dtype": "float64", "r_max": 4.0, "avg_num_neighbors": 1.0}
    base = NequIPGNNModel(type_names=["H", "C"], pair_potential=potential, **arguments).eval()
    extended = ModelWithNewTypes(base, {"U": "C"})

    def pair(first, second):
        return {
            "pos": torch.tensor([[0.0, 0, 0], [1.0, 0, 0]], dtype=torch.float64),
            "edge_index": torch.tensor([[0, 1], [1, 0]]),
            "atom_types": torch.tensor([first, second]),
        }

    found = [extended(pair(0, second))["total_energy"].item() for second in (1, 2)]
    assert found[0] == pytest.approx(base(pair(0, 1))["total_energy"].item(), abs=1e-12)
    assert found[1] > found[0] + 1.0  # 92 protons repel more than 6


def test_every_weight_of_a_new_type_can_be_trained(build, crystal):
    extended = ModelWithNewTypes(trained(build()), NEW).train()
    types = crystal["atom_types"].clone()
    types[0] = 4
    extended({**crystal, "atom_types": types})["total_energy"].sum().backward()
    gradient = extended.model.energy.type_embedding.weight.grad
    assert gradient[4].abs().max() > 0
    assert gradient[3].abs().max() == 0


def test_shifts_of_a_modifier_and_the_description_come_along(build, crystal):
    base = modify(
        trained(build()), [{"modifier": "modify_PerTypeScaleShift", "shifts": {"C": -7.0}}]
    )
    extended = ModelWithNewTypes(base, NEW)
    shifts = extended.model.energy.scale_shift.shifts.flatten().tolist()
    assert shifts == [-1.0, -7.0, -3.0, -7.0, -3.0]
    again = build_described(describe(extended))
    again.load_state_dict(extended.state_dict())
    for key, value in outputs(extended, crystal).items():
        torch.testing.assert_close(outputs(again, crystal)[key], value, rtol=0, atol=1e-12)


def test_one_type_becomes_two(crystal):
    model = PresetNequIPGNNModel(
        preset="S",
        seed=1,
        model_dtype="float64",
        type_names=["Cu"],
        r_max=4.0,
        avg_num_neighbors=9.0,
    ).eval()
    one = {**crystal, "atom_types": torch.zeros_like(crystal["atom_types"])}
    two = {**one, "atom_types": torch.arange(len(one["atom_types"])) % 2}
    extended = ModelWithNewTypes(model, {"Au": "Cu"})
    for key, value in outputs(model, one).items():
        torch.testing.assert_close(outputs(extended, two)[key], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ({"C": "H"}, "knows the type 'C' already"),
        ({"N": "c"}, "not one of the model's types"),
        ({"N1": "C"}, "chemical elements, and 'N1' is none"),
    ],
)
def test_wrong_types_are_refused(build, new, message):
    potential = {
        "_target_": "nequip.nn.pair_potential.ZBL",
        "chemical_species": ["H", "C", "O"],
        "units": "metal",
    }
    with pytest.raises(ConfigError, match=message):
        ModelWithNewTypes(build(pair_potential=potential), new)


def test_a_model_that_does_not_describe_itself_is_refused(build):
    model = build()
    model.description = None
    with pytest.raises(ConfigError, match="nequip-package convert"):
        ModelWithNewTypes(model, NEW)
