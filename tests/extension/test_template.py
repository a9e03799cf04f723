"""The template extension package: builds, trains, is modified, and passes the test kit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nequip_template import TEMPERATURE_KEY
from nequip_template.model import TemplateModel
from nequip_template.transform import AddTemperature

from nequip_core.fields import get_field_type
from nequip_core.frames import batched_from_list
from nequip_core.modifiers import get_all_modifiers
from nequip_core.synthetic import synthetic_frame
from nequip_model.architecture import build_described
from nequip_model.testing.model_tests import BaseEnergyModelTests

CONFIG: dict[str, Any] = {
    "_target_": "nequip_template.model.TemplateModel",
    "seed": 5,
    "type_names": ["H", "C", "O"],
    "r_max": 4.0,
    "per_type_energy_shifts": {"H": -1.0, "C": -2.0, "O": -3.0},
}


class TestTemplate(BaseEnergyModelTests):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls) -> dict[str, Any]:
        return CONFIG

    @pytest.fixture(scope="class")
    @classmethod
    def strict_locality(cls) -> bool:
        return True


@pytest.fixture
def model() -> torch.nn.Module:
    arguments = {key: value for key, value in CONFIG.items() if key != "_target_"}
    return TemplateModel(model_dtype="float64", **arguments).eval()


@pytest.fixture
def frame() -> dict[str, torch.Tensor]:
    return synthetic_frame(CONFIG["type_names"], CONFIG["r_max"])


def test_own_field_reaches_the_model_through_a_batch(model: Any, frame: Any) -> None:
    assert get_field_type(TEMPERATURE_KEY) == "graph"
    assert TEMPERATURE_KEY in model.model_input_fields
    warm = AddTemperature(1.0)(dict(frame))
    assert AddTemperature(2.0)(dict(warm))[TEMPERATURE_KEY].tolist() == [[1.0]]
    cold = AddTemperature(0.0)(dict(frame))
    out = model(batched_from_list([cold, warm]))
    torch.testing.assert_close(out["forces"].chunk(2)[0], model(dict(frame))["forces"])
    torch.testing.assert_close(*[f * s for f, s in zip(out["forces"].chunk(2), (0.5, 1.0), strict=True)])  # fmt: skip # noqa: E501


def test_one_step_of_training_lowers_the_loss(model: Any, frame: Any) -> None:
    model.train()
    wanted = torch.zeros_like(frame["pos"])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = (model(dict(frame))["forces"] - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]


def test_own_modifier_is_found_by_its_name(model: Any, frame: Any) -> None:
    before = model(dict(frame))["forces"]
    found = get_all_modifiers(model)
    assert {"scale_PairEnergy", "disable_ForceStressOutput"} <= set(found)
    found["scale_PairEnergy"](model, strength=2.0)
    torch.testing.assert_close(model(dict(frame))["forces"], 2.0 * before)


def test_cutoffs_of_type_pairs_are_stated_and_shorten_the_interaction(frame: Any) -> None:
    arguments = {key: value for key, value in CONFIG.items() if key != "_target_"}
    cutoffs = {"H": 1e-3, "C": 1e-3, "O": {"H": 1e-3, "C": 1e-3}}
    arguments |= {"per_edge_type_cutoff": cutoffs, "model_dtype": "float64"}
    model = TemplateModel(**arguments).eval()
    assert model.metadata["per_edge_type_cutoff"].split()[-1] == "4.0"
    forces = model(dict(frame))["forces"]
    oxygen = frame["atom_types"].reshape(-1) == 2
    assert not forces[~oxygen].any()
    assert forces[oxygen].abs().max() > 0.0


def test_description_builds_the_same_model_again(model: Any, frame: Any) -> None:
    again = build_described(model.description).eval()
    assert torch.equal(again(dict(frame))["forces"], model(dict(frame))["forces"])
