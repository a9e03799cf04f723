"""Frames: dtypes, shapes, batching and splitting."""

import numpy as np
import pytest
import torch

from nequip_core import atomic_data_dict
from nequip_core.frames import (
    batched_from_list,
    frame_from_batched,
    from_dict,
    num_edges,
    num_frames,
    num_nodes,
    with_batch_,
)
from nequip_core.synthetic import synthetic_frame


def labelled(num_atoms, seed):
    frame = synthetic_frame(["A", "B"], 3.0, num_atoms=num_atoms, seed=seed)
    rng = np.random.default_rng(seed)
    frame["forces"] = torch.tensor(rng.normal(size=(num_atoms, 3)))
    frame["total_energy"] = torch.tensor(rng.normal(size=(1, 1)))
    frame["stress"] = torch.tensor(rng.normal(size=(1, 3, 3)))
    return frame


def test_numbers_become_float64_and_integers_int64():
    frame = from_dict(
        {"pos": np.zeros((2, 3), np.float32), "atom_types": [0, 1], "total_energy": 3, "cell": None}
    )
    assert frame["pos"].dtype == torch.float64
    assert frame["atom_types"].dtype == torch.int64
    assert frame["total_energy"].dtype == torch.float64
    assert frame["total_energy"].shape == (1, 1)
    assert frame["pbc"].tolist() == [[False] * 3]
    assert "cell" not in frame


def test_tensors_keep_their_dtype():
    assert from_dict({"pos": torch.zeros(2, 3)})["pos"].dtype == torch.float32


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"cell": np.eye(3)}, ValueError, "needs 'pos'"),
        ({"pos": np.zeros((2, 3)), "cell": np.eye(3)}, ValueError, "needs 'pbc'"),
        ({"pos": np.zeros((2, 2))}, ValueError, r"must have shape \(N, 3\)"),
        ({"pos": np.zeros((2, 3)), "forces": np.zeros((3, 3))}, ValueError, "expected 2 rows"),
        ({"pos": np.zeros((2, 3)), "atom_types": [0.5, 1.0]}, TypeError, "must hold integers"),
        ({"pos": np.zeros((2, 3)), "note": "text"}, TypeError, "unsupported type"),
    ],
)
def test_unfit_data_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        from_dict(data)


def test_splitting_a_batch_gives_back_its_frames():
    frames = [labelled(n, seed=n) for n in (3, 5, 2)]
    batch = batched_from_list(frames)
    assert (num_frames(batch), num_nodes(batch)) == (3, 10)
    assert num_edges(batch) == sum(num_edges(frame) for frame in frames)
    assert batch["batch"].tolist() == [0] * 3 + [1] * 5 + [2] * 2
    for index, frame in enumerate(frames):
        back = frame_from_batched(batch, index)
        assert set(back) == set(frame) | {"batch", "num_atoms"}
        assert all(torch.equal(back[key], frame[key]) for key in frame)


def test_batches_of_batches_are_flat():
    a, b, c = (labelled(n, seed=n) for n in (2, 3, 4))
    nested = batched_from_list([batched_from_list([a, b]), c])
    flat = batched_from_list([a, b, c])
    assert all(torch.equal(nested[key], flat[key]) for key in flat)


def test_a_batch_of_one_is_a_copy_with_batch_fields():
    frame = labelled(3, seed=0)
    batch = batched_from_list([frame])
    assert "batch" not in frame
    assert batch["num_atoms"].tolist() == [3]
    assert with_batch_(batch) is batch


def test_frames_of_different_fields_are_refused():
    a, b = labelled(2, seed=0), labelled(2, seed=1)
    del b["stress"]
    with pytest.raises(RuntimeError, match=r"frame 1 lacks \['stress'\]"):
        batched_from_list([a, b])
    with pytest.raises(RuntimeError, match="empty list"):
        batched_from_list([])
    with pytest.raises(KeyError, match="Unregistered key mystery"):
        batched_from_list([{**a, "mystery": torch.ones(1)}] * 2)
    with pytest.raises(IndexError, match="frame 3 of a batch of 1"):
        frame_from_batched(a, 3)


def test_the_documented_module_has_keys_and_functions():
    assert atomic_data_dict.POSITIONS_KEY == "pos"
    assert atomic_data_dict.batched_from_list is batched_from_list
    assert set(atomic_data_dict.__all__) <= set(dir(atomic_data_dict))
