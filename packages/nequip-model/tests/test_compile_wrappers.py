"""Models by position: there and back without a change."""

from __future__ import annotations

import pytest
import torch

from nequip_model.compile_wrappers import (
    DictInputOutputWrapper,
    ListInputOutputStateDictWrapper,
    ListInputOutputWrapper,
)

INPUTS = ["pos", "edge_index", "atom_types", "cell", "edge_cell_shift"]
OUTPUTS = ["atomic_energy", "total_energy", "forces", "stress"]


def test_fields_go_in_and_come_out_by_position(build, crystal):
    model = build()
    expected = model(dict(crystal))
    tensors = [crystal[key] for key in INPUTS]
    wrapper = ListInputOutputWrapper(model, INPUTS, OUTPUTS)
    for found in (wrapper(*tensors), wrapper(tensors)):
        assert len(found) == len(OUTPUTS)
        for value, key in zip(found, OUTPUTS, strict=True):
            assert torch.equal(value, expected[key])


def test_there_and_back_is_the_model(build, crystal):
    model = build()
    expected = model(dict(crystal))
    wrapper = DictInputOutputWrapper(
        ListInputOutputWrapper(model, INPUTS, OUTPUTS), INPUTS, OUTPUTS
    )
    found = wrapper({**crystal, "label": torch.zeros(1)})
    assert list(found) == OUTPUTS
    assert all(torch.equal(found[key], expected[key]) for key in OUTPUTS)
    assert list(wrapper.state_dict()) == [f"model.model.{key}" for key in model.state_dict()]


def test_given_weights_stand_in_for_the_models_own(build, crystal):
    model, other = build(), build(seed=4)
    names = list(model.state_dict())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    wrapper = ListInputOutputStateDictWrapper(model, INPUTS, OUTPUTS, names)
    found = wrapper(*(crystal[key] for key in INPUTS), *other.state_dict().values())
    expected = other(dict(crystal))
    for value, key in zip(found, OUTPUTS, strict=True):
        torch.testing.assert_close(value, expected[key], atol=1e-12, rtol=1e-12)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not torch.equal(found[0], model(dict(crystal))["atomic_energy"])


def test_a_wrapped_model_trains(build, crystal):
    model = build().train()
    wrapper = DictInputOutputWrapper(
        ListInputOutputWrapper(model, INPUTS, OUTPUTS), INPUTS, OUTPUTS
    )
    optimizer = torch.optim.Adam(wrapper.parameters(), lr=0.01)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = wrapper(dict(crystal))["forces"].square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_what_is_missing_or_too_much_is_named(build, crystal):
    model = build()
    tensors = [crystal[key] for key in INPUTS]
    with pytest.raises(ValueError, match=r"5 input fields .* and 4 tensors"):
        ListInputOutputWrapper(model, INPUTS, OUTPUTS)(*tensors[1:])
    with pytest.raises(KeyError, match=r"output lacks \['dipole'\]"):
        ListInputOutputWrapper(model, INPUTS, ["dipole"])(*tensors)
    wrapper = DictInputOutputWrapper(lambda given: given, ["pos"], ["a", "b"])
    with pytest.raises(KeyError, match=r"the data lacks \['pos'\]"):
        wrapper({})
    with pytest.raises(ValueError, match=r"2 output fields .* and 1 tensors"):
        wrapper({"pos": crystal["pos"]})
