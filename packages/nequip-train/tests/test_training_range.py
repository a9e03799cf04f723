"""Checkpoints state which distances and numbers of neighbors the model was trained on."""

from __future__ import annotations

import numpy as np
import torch

from nequip_core.saved_model import load_saved_model
from nequip_core.stated_facts import stated_facts
from nequip_train.callbacks.training_range import TrainingRange


def test_checkpoint_states_the_range_of_its_training_set(train, config, workplace, alloy) -> None:
    config["run"] = ["train"]
    assert train(config) == 0
    (path, *_) = sorted(workplace.rglob("*.ckpt"))
    known = stated_facts(load_saved_model(path))["training_range"]
    r_max = float(next(iter(load_saved_model(path).models.values())).r_max)
    shortest, counts = np.inf, []
    for atoms in alloy:
        images = atoms.repeat((5, 5, 5))
        middle = range(62 * len(atoms), 63 * len(atoms))
        for number in middle:
            lengths = np.delete(images.get_distances(number, range(len(images))), number)
            shortest = min(shortest, lengths.min())
            counts.append(int((lengths <= r_max).sum()))
    found = [value for row in known["shortest_distance"].values() for value in row.values()]
    # Some frames are for validation.
    assert shortest - 1e-6 <= min(found) < shortest + 0.3
    assert set(known["neighbors"]) == {"Al", "Cu"}
    assert min(counts) <= min(low for low, _ in known["neighbors"].values())
    assert max(counts) >= max(high for _, high in known["neighbors"].values())
    assert known["neighbors"]["Cu"][0] <= known["neighbors"]["Cu"][1]


def test_interrupted_epoch_goes_on_with_what_it_had_seen() -> None:
    class Module:
        class Model(torch.nn.Module):
            type_names = ("A",)

        model = torch.nn.ModuleDict({"sole_model": Model()})

    def batch(distance: float) -> dict[str, torch.Tensor]:
        return {
            "pos": torch.tensor([[0.0, 0, 0], [0, 0, distance]], dtype=torch.float64),
            "atom_types": torch.zeros(2, dtype=torch.int64),
            "edge_index": torch.tensor([[0, 1], [1, 0]]),
        }

    first = TrainingRange()
    first.on_train_batch_start(None, Module, batch(1.5), 0)
    second = TrainingRange()
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["range"] == first.state_dict()["range"]
    second.on_train_batch_start(None, Module, batch(2.0), 1)
    found = second.state_dict()
    assert found["range"] == {"shortest_distance": {"A": {"A": 1.5}}, "neighbors": {"A": [1, 1]}}
    assert not found["is_done"]
    third = TrainingRange()
    third.load_state_dict({**found, "is_done": True})
    third.on_train_batch_start(None, Module, batch(0.5), 0)
    assert third.state_dict()["range"] == found["range"]
