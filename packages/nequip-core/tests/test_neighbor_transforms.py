"""Transforms that make, sort and prune neighbor lists."""

import numpy as np
import pytest
import torch

from nequip_core.errors import ConfigError, DataError
from nequip_core.fields import deregister_fields, register_fields
from nequip_core.frames import batched_from_list, from_dict
from nequip_core.neighbors import compute_neighborlist_, edge_vectors
from nequip_core.transforms import (
    NeighborListPruneTransform,
    NeighborListTransform,
    SortedNeighborListTransform,
)

NAMES = ["A", "B", "C"]
CUTOFFS = {"A": {"B": 2.0, "C": 1.2}, "B": 2.5}
TABLE = [[3.0, 2.0, 1.2], [2.5, 2.5, 2.5], [3.0, 3.0, 3.0]]


def structure(seed, atoms=6):
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * 0.5 + np.eye(3) * 4.0
    positions = rng.uniform(-1, 2, size=(atoms, 3)) @ cell
    types = rng.integers(3, size=atoms)
    return from_dict({"pos": positions, "cell": cell, "pbc": True, "atom_types": types})


def rows(data):
    columns = [*data["edge_index"], *data["edge_cell_shift"].T.long()]
    return list(zip(*[column.tolist() for column in columns], strict=True))


@pytest.mark.parametrize("batched", [False, True])
def test_cutoffs_by_type_drop_exactly_the_longer_edges(batched):
    data = structure(0)
    if batched:
        data = batched_from_list([structure(seed) for seed in range(5)])
    whole = compute_neighborlist_(dict(data), 3.0)
    vectors, types = edge_vectors(whole), data["atom_types"].tolist()
    wanted = [
        row
        for row, vector in zip(rows(whole), vectors.tolist(), strict=True)
        if sum(x * x for x in vector) ** 0.5 <= TABLE[types[row[0]]][types[row[1]]]
    ]
    found = NeighborListTransform(3.0, CUTOFFS, NAMES)(dict(data))
    assert rows(found) == wanted
    assert 0 < len(wanted) < len(vectors)
    alone = NeighborListPruneTransform(3.0, CUTOFFS, NAMES)(dict(whole))
    assert rows(alone) == wanted


def test_pruning_takes_rows_from_every_edge_field():
    register_fields(edge_fields=["bond_order"])
    try:
        data = SortedNeighborListTransform(3.0)(structure(1))
        count = data["edge_index"].shape[1]
        data["bond_order"] = torch.arange(count).double().unsqueeze(-1)
        data["edge_lengths"] = edge_vectors(data).norm(dim=-1, keepdim=True)
        before = rows(data)
        data = NeighborListPruneTransform(3.0, CUTOFFS, NAMES)(data)
    finally:
        deregister_fields("bond_order")
    kept = data["bond_order"].view(-1).long().tolist()
    assert 0 < len(kept) < count
    assert rows(data) == [before[k] for k in kept]
    torch.testing.assert_close(data["edge_lengths"].view(-1), edge_vectors(data).norm(dim=-1))
    columns = data["edge_index"][:, data["edge_transpose_perm"]].flip(0)
    keys = columns[0] * 6 + columns[1]
    assert (keys.diff() >= 0).all()
    assert sorted(data["edge_transpose_perm"].tolist()) == list(range(len(kept)))


@pytest.mark.parametrize("backend", ["vesin", "torch"])
def test_column_major_order_of_a_full_list_is_the_reverse_of_each_edge(backend):
    for seed in range(10):
        data = SortedNeighborListTransform(3.0, backend=backend)(structure(seed))
        order = data["edge_transpose_perm"]
        assert torch.equal(data["edge_index"][:, order], data["edge_index"].flip(0))
        assert torch.equal(data["edge_cell_shift"][order], -data["edge_cell_shift"])
        torch.testing.assert_close(edge_vectors(data)[order], -edge_vectors(data))


def test_column_major_order_of_a_molecule_is_the_reverse_of_each_edge():
    data = SortedNeighborListTransform(2.0)(
        from_dict({"pos": np.random.default_rng(0).normal(size=(5, 3))})
    )
    assert torch.equal(
        data["edge_index"][:, data["edge_transpose_perm"]], data["edge_index"].flip(0)
    )


def test_collated_column_major_order_is_that_of_the_batch():
    frames = [structure(seed) for seed in range(4)]
    together = SortedNeighborListTransform(3.0)(batched_from_list(frames))
    collated = batched_from_list([SortedNeighborListTransform(3.0)(frame) for frame in frames])
    for key in ("edge_index", "edge_cell_shift", "edge_transpose_perm"):
        assert torch.equal(collated[key], together[key])


def test_cutoffs_that_do_not_fit_are_refused():
    for cutoffs, message in (
        ({"D": 1.0}, "names the type 'D'"),
        ({"A": -1.0}, r"A must be in \(0, r_max=3.0\], got -1.0"),
        ({"A": 3.5}, "got 3.5"),
    ):
        for kind in (NeighborListTransform, NeighborListPruneTransform):
            with pytest.raises(ValueError, match=message):
                kind(3.0, cutoffs, NAMES)
    with pytest.raises(ConfigError, match="needs 'type_names'"):
        NeighborListPruneTransform(3.0, CUTOFFS, None)
    with pytest.raises(DataError, match="no neighbor list to prune"):
        NeighborListPruneTransform(3.0, CUTOFFS, NAMES)(structure(0))
    with pytest.raises(DataError, match="cutoff radius must be positive"):
        NeighborListTransform(-3.0)
