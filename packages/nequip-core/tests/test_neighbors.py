"""Neighbor lists against a brute-force sum over images."""

import itertools

import numpy as np
import pytest
import torch

from nequip_core.errors import DataError, PluginError
from nequip_core.frames import batched_from_list, from_dict
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.transforms import NeighborListTransform


def brute_force(positions, cell, pbc, r_max):
    """Every (i, j, shift) within the cutoff, by looking at all images that can be."""
    heights = np.abs(np.linalg.det(cell)) / np.array(
        [np.linalg.norm(np.cross(cell[(k + 1) % 3], cell[(k + 2) % 3])) for k in range(3)]
    )
    fractional = positions @ np.linalg.inv(cell)
    spread = np.ceil(np.ptp(fractional, axis=0)) + 1
    reach = [
        int(np.ceil(r_max / h) + s) if p else 0
        for h, s, p in zip(heights, spread, pbc, strict=True)
    ]
    found = set()
    for shift in itertools.product(*[range(-n, n + 1) for n in reach]):
        offset = np.array(shift) @ cell
        vectors = positions[None] + offset - positions[:, None]
        near = np.linalg.norm(vectors, axis=-1) < r_max
        found |= {(int(i), int(j), shift) for i, j in np.argwhere(near) if i != j or any(shift)}
    return found


def edges(frame):
    return {
        (int(i), int(j), tuple(int(n) for n in shift))
        for (i, j), shift in zip(frame["edge_index"].T, frame["edge_cell_shift"], strict=True)
    }


@pytest.mark.parametrize("seed", range(60))
def test_every_image_within_the_cutoff_is_found_once(seed):
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) + np.diag(rng.uniform(1.5, 4.0, size=3))
    cell *= max(1.0, (4.0 / np.abs(np.linalg.det(cell))) ** (1 / 3))
    pbc = rng.integers(2, size=3).astype(bool)
    positions = rng.uniform(-1.0, 2.0, size=(rng.integers(1, 6), 3)) @ cell
    r_max = float(rng.uniform(2.0, 4.0))
    frame = compute_neighborlist_(from_dict({"pos": positions, "cell": cell, "pbc": pbc}), r_max)
    assert edges(frame) == brute_force(positions, cell, pbc, r_max)
    assert len(edges(frame)) == frame["edge_index"].shape[1]
    assert (frame["edge_index"][0].diff() >= 0).all(), "edges are sorted by centre"


def test_missing_cell_vectors_of_open_directions_are_filled_in():
    cell = np.array([[3.0, 0.0, 0.0], [0.5, 3.0, 0.0], [0.0, 0.0, 0.0]])
    data = {"pos": np.zeros((1, 3)), "cell": cell, "pbc": [True, True, False]}
    frame = compute_neighborlist_(from_dict(data), 3.5)
    assert {shift for _, _, shift in edges(frame)} == {
        (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0)
    }  # fmt: skip


def test_without_a_cell_there_are_no_shifts():
    frame = compute_neighborlist_(from_dict({"pos": np.array([[0.0, 0, 0], [1.0, 0, 0]])}), 2.0)
    assert frame["edge_index"].tolist() == [[0, 1], [1, 0]]
    assert "edge_cell_shift" not in frame


def test_a_batch_gets_the_lists_of_its_frames():
    rng = np.random.default_rng(0)
    frames = [
        from_dict({"pos": rng.uniform(size=(n, 3)) * 3, "cell": np.eye(3) * 3, "pbc": True})
        for n in (2, 4)
    ]
    batch = compute_neighborlist_(batched_from_list(frames), 2.0)
    alone = batched_from_list([compute_neighborlist_(dict(frame), 2.0) for frame in frames])
    assert torch.equal(batch["edge_index"], alone["edge_index"])
    again = compute_neighborlist_(batch, 1.0)
    assert again["edge_index"].shape[1] < alone["edge_index"].shape[1]


@pytest.mark.parametrize(
    ("change", "r_max", "message"),
    [
        ({"pos": np.array([[0.0, 0, 0], [np.nan, 0, 0]])}, 2.0, "position of atom 1 is not finite"),
        ({"cell": np.full((3, 3), np.inf)}, 2.0, "cell is not finite"),
        ({"cell": np.zeros((3, 3))}, 2.0, "give a cell vector for every periodic direction"),
        ({"cell": np.ones((3, 3))}, 2.0, "lie in a plane"),
        ({}, 0.0, "cutoff radius must be positive"),
    ],
)
def test_unfit_geometry_is_refused(change, r_max, message):
    data = {"pos": np.zeros((2, 3)), "cell": np.eye(3), "pbc": True, **change}
    with pytest.raises(DataError, match=message):
        compute_neighborlist_(from_dict(data), r_max)


def test_an_unknown_backend_is_named_with_the_known_ones():
    with pytest.raises(PluginError, match=r"no 'vesn'.*did you mean 'vesin'"):
        compute_neighborlist_(from_dict({"pos": np.zeros((1, 3))}), 2.0, backend="vesn")


def test_cutoffs_by_type_pair_drop_exactly_the_longer_edges():
    rng = np.random.default_rng(3)
    frame = from_dict(
        {
            "pos": rng.uniform(size=(6, 3)) * 4,
            "cell": np.eye(3) * 4,
            "pbc": True,
            "atom_types": rng.integers(2, size=6),
        }
    )
    full = NeighborListTransform(3.0)(dict(frame))
    table = {"A": {"B": 2.0}, "B": 2.5}
    pruned = NeighborListTransform(3.0, table, type_names=["A", "B"])(dict(frame))
    limits = {(0, 0): 3.0, (0, 1): 2.0, (1, 0): 2.5, (1, 1): 2.5}
    types, kept = frame["atom_types"].tolist(), set()
    for i, j, shift in edges(full):
        vector = frame["pos"][j] - frame["pos"][i] + 4.0 * torch.tensor(shift)
        if vector.norm() <= limits[types[i], types[j]]:
            kept.add((i, j, shift))
    assert edges(pruned) == kept
    assert 0 < len(kept) < len(edges(full))
