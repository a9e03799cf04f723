"""Compile targets: orders that engines rely on, and example data."""

import pytest
import torch

from nequip_core.compile_targets import ASE, BATCH, PAIR_NEQUIP, custom_target
from nequip_core.errors import ConfigError
from nequip_core.plugins import COMPILE_TARGETS, load_plugin, plugin_names
from nequip_core.synthetic import synthetic_frame

FRAME_INPUTS = "pos edge_index atom_types cell edge_cell_shift"


@pytest.mark.parametrize(
    ("target", "inputs", "outputs"),
    [
        (ASE, FRAME_INPUTS, "atomic_energy total_energy forces stress"),
        (BATCH, f"{FRAME_INPUTS} batch num_atoms", "atomic_energy total_energy forces stress"),
        (PAIR_NEQUIP, FRAME_INPUTS, "atomic_energy forces virial"),
    ],
    ids=["ase", "batch", "pair_nequip"],
)
def test_orders_are_the_documented_ones(target, inputs, outputs):
    assert " ".join(target.inputs) == inputs
    assert " ".join(target.outputs) == outputs


def test_targets_are_offered_under_their_names():
    assert {"ase", "batch", "pair_nequip"} <= set(plugin_names(COMPILE_TARGETS))
    for target in (ASE, BATCH, PAIR_NEQUIP):
        assert load_plugin(COMPILE_TARGETS, target.name) is target


def test_single_frame_targets_drop_the_batch_fields():
    frame = synthetic_frame(["Cu"], 4.0)
    batched = BATCH.prepare(frame)
    assert set(BATCH.inputs) <= set(batched)
    assert {"batch", "num_atoms"}.isdisjoint(ASE.prepare(batched))
    assert set(ASE.inputs) <= set(ASE.prepare(frame))


def test_batch_target_doubles_the_frame():
    frame = synthetic_frame(["Cu"], 4.0, num_atoms=5)
    batch = BATCH.prepare(frame)
    assert batch["num_atoms"].tolist() == [5, 5]
    assert torch.equal(batch["pos"][:5], batch["pos"][5:])
    assert batch["edge_index"].shape[1] == 2 * frame["edge_index"].shape[1]
    assert "batch" not in frame


def test_custom_target_is_dynamic_in_frames_with_batch_as_input():
    assert not custom_target(("pos", "edge_index"), ("forces",)).dynamic_frames
    assert custom_target(("pos", "batch"), ("total_energy",)).dynamic_frames


@pytest.mark.parametrize("inputs", [(), ("pos", "pos")])
def test_custom_target_refuses_empty_or_repeated_fields(inputs):
    with pytest.raises(ConfigError, match="input fields must be different"):
        custom_target(inputs, ("forces",))
