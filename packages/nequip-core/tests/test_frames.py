"""Frames: dtypes, shapes, batching and splitting."""

import numpy as np
import pytest
import torch

from nequip_core import atomic_data_dict
from nequip_core.errors import DataError
from nequip_core.frames import (
    batched_from_list,
    frame_from_batched,
    from_dict,
    num_edges,
    num_frames,
    num_nodes,
    unbatched,
    with_batch_,
    without_nodes,
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
        ({"pos": np.zeros((2, 3)), "atom_types": [0.5, 1.0]}, DataError, "integers, got 0.5"),
        ({"pos": np.zeros((2, 3)), "charge": np.nan}, DataError, "'charge' must hold integers"),
        ({"pos": np.zeros((2, 3)), "charge": "+1"}, DataError, "'charge' must hold integers"),
        (
            {"pos": torch.zeros(2, 3), "atom_types": torch.tensor([0.0, 1.5])},
            DataError,
            "integers, got 1.5",
        ),
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


def random_frame(seed: int, atoms: int, edges: int):
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, atoms, (2, edges), generator=generator)
    return {
        "pos": torch.rand((atoms, 3), generator=generator, dtype=torch.float64),
        "atom_types": torch.randint(0, 3, (atoms,), generator=generator),
        "cell": torch.rand((1, 3, 3), generator=generator, dtype=torch.float64),
        "pbc": torch.tensor([[True, False, True]]),
        "edge_index": index,
        "edge_cell_shift": torch.rand((edges, 3), generator=generator, dtype=torch.float64),
        "edge_transpose_perm": torch.randperm(edges, generator=generator),
        "edge_type_flat": torch.randint(0, 3, (2, edges), generator=generator),
        "total_energy": torch.rand((1, 1), generator=generator, dtype=torch.float64),
    }


def equal(first, second):
    return set(first) == set(second) and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("seed", range(5))
def test_frames_come_out_of_a_batch_as_they_went_in(seed):
    frames = [with_batch_(random_frame(seed + 7 * n, 3 + n, 4 + 2 * n)) for n in range(4)]
    batch = batched_from_list(frames)
    out = unbatched(batch)
    assert len(out) == 4
    assert all(equal(a, b) for a, b in zip(frames, out, strict=True))
    assert equal(batched_from_list(out), batch)


def test_batches_are_batched_as_their_frames_would_be():
    frames = [random_frame(n, 4, 5) for n in range(4)]
    halves = [batched_from_list(frames[:1]), batched_from_list(frames[1:])]
    assert equal(batched_from_list(halves), batched_from_list(frames))


def test_transposed_edges_of_a_batch_are_those_of_its_frames():
    frames = [random_frame(n, 4, 5) for n in range(3)]
    batch = batched_from_list(frames)
    transposed = batch["edge_index"][:, batch["edge_transpose_perm"]]
    expected = [f["edge_index"][:, f["edge_transpose_perm"]] + 4 * n for n, f in enumerate(frames)]
    assert torch.equal(transposed, torch.cat(expected, dim=1))


@pytest.mark.parametrize("as_mask", [True, False])
def test_atoms_are_left_out_with_their_edges_and_nothing_else(as_mask):
    frames = [random_frame(n, 5, 12) for n in range(2)]
    batch = batched_from_list(frames)
    which = torch.tensor([1, 7])
    mask = torch.zeros(10, dtype=torch.bool)
    mask[which] = True
    found = without_nodes(batch, mask if as_mask else which)
    kept = torch.tensor([0, 2, 3, 4, 5, 6, 8, 9])
    assert torch.equal(found["pos"], batch["pos"][kept])
    assert found["num_atoms"].tolist() == [4, 4]
    edges = ~mask[batch["edge_index"]].any(0)
    assert torch.equal(kept[found["edge_index"]], batch["edge_index"][:, edges])
    assert torch.equal(found["edge_cell_shift"], batch["edge_cell_shift"][edges])
    assert sorted(found["edge_transpose_perm"].tolist()) == list(range(int(edges.sum())))
    assert equal(without_nodes(batch, torch.zeros(10, dtype=torch.bool)), batch)
    assert num_nodes(batch) == 10


@pytest.mark.parametrize(("atoms", "edges"), [((1, 3), (0, 4)), ((3, 1), (4, 0)), ((2, 2), (0, 0))])
def test_a_frame_without_edges_comes_out_of_a_batch_as_it_went_in(atoms, edges):
    frames = [
        with_batch_(random_frame(n, a, e))
        for n, (a, e) in enumerate(zip(atoms, edges, strict=True))
    ]
    batch = batched_from_list(frames)
    out = unbatched(batch)
    assert all(equal(a, b) for a, b in zip(frames, out, strict=True))
    assert equal(batched_from_list(out), batch)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"stress": np.zeros(6)}, r"'stress' must have rows of shape \(3, 3\), got shape \(6,\)"),
        ({"cell": np.zeros(4), "pbc": True}, r"'cell' must have rows of shape \(3, 3\)"),
        ({"pbc": [True, False]}, r"'pbc' must have rows of shape \(3,\), got shape \(2,\)"),
    ],
)
def test_a_field_of_another_shape_is_named(data, message):
    with pytest.raises(DataError, match=message):
        from_dict({"pos": np.zeros((1, 3)), **data})


def test_whole_numbers_of_any_type_become_integers():
    for charge in (
        1.0,
        np.float32(1.0),
        np.longdouble(1.0),
        np.uint16(1),
        [1.0],
        torch.tensor([[1.0]]),
        np.array([1]),
    ):
        found = from_dict({"pos": np.zeros((2, 3)), "charge": charge})["charge"]
        assert found.dtype == torch.int64 and found.tolist() == [[1]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_positions_that_are_not_finite_are_refused_by_atom(make, value):
    positions = np.zeros((5, 3))
    positions[3, 1] = value
    with pytest.raises(DataError, match=rf"atom 3 is not finite: \[0.0, {value}, 0.0\] \(1 of 5"):
        from_dict({"pos": make(positions)})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("total_energy", np.zeros((1, 2)), r"must have shape \(F, 1\), got \(1, 2\): 1 number for"),
        ("total_energy", np.zeros((1, 1, 1)), r"must have shape \(F, 1\), got \(1, 1, 1\)"),
        ("atomic_energy", np.zeros((2, 2)), r"must have shape \(N, 1\), got \(2, 2\)"),
        ("forces", np.zeros(2), r"\(N, 3\), got \(2, 1\): 3 numbers for each atom"),
        ("charge", [[1, 2]], r"must have shape \(F, 1\)"),
    ],
)
def test_rows_of_another_length_are_refused(key, value, message):
    with pytest.raises(DataError, match=f"'{key}' .*{message}|'{key}' {message}"):
        from_dict({"pos": np.zeros((2, 3)), key: value})
