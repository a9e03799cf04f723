"""Same edges as the reference's neighbor lists, whole and pruned by type pair."""

import numpy as np
import pytest
import torch

from nequip_core.frames import batched_from_list, from_dict
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.transforms import NeighborListTransform, SortedNeighborListTransform

pytestmark = pytest.mark.filterwarnings("ignore")  # raised inside the reference

R_MAX = 3.0
BACKENDS = ["ase", "matscipy", "vesin"]
NAMES = ["H", "C", "O"]


@pytest.fixture(scope="module")
def theirs(reference):
    """The reference's data functions, after its initialisation."""
    import nequip.data.transforms
    from nequip.data import compute_neighborlist_

    class Functions:
        neighbor_list = staticmethod(compute_neighborlist_)
        transforms = nequip.data.transforms

    return Functions


def structure(seed, cell=True, pbc=None):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 9))
    vectors = rng.normal(size=(3, 3)) * 0.6 + np.diag(rng.uniform(2.0, 6.0, size=3))
    positions = rng.uniform(-1.0, 2.0, size=(count, 3)) @ vectors
    pbc = rng.integers(2, size=3).astype(bool) if pbc is None else [pbc] * 3
    fields = {"pos": positions, "pbc": pbc, "atom_types": rng.integers(3, size=count)}
    if cell:
        fields["cell"] = vectors
    else:
        fields["pbc"] = False
    return from_dict(fields)


def rows(data):
    """Sorted rows of centre, neighbour and shift."""
    columns = list(data["edge_index"])
    if "edge_cell_shift" in data:
        columns += list(data["edge_cell_shift"].T.long())
    return sorted(zip(*[column.tolist() for column in columns], strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", [True, False], ids=["cell", "no cell"])
def test_edges_are_those_of_the_reference(theirs, backend, cell):
    # The reference's vesin refuses cells that are periodic in some directions only.
    for seed in range(60):
        frame = structure(seed, cell, pbc=bool(seed % 2) if backend == "vesin" else None)
        wanted = theirs.neighbor_list(dict(frame), R_MAX, backend=backend)
        for ours in (backend, "torch"):
            found = compute_neighborlist_(dict(frame), R_MAX, ours)
            assert rows(found) == rows(wanted)
            assert found.keys() == wanted.keys()
            for key in ("edge_index", "edge_cell_shift"):
                if key in wanted:
                    assert found[key].dtype == wanted[key].dtype


@pytest.mark.parametrize("backend", BACKENDS)
def test_edges_of_a_batch_are_those_of_the_reference(theirs, backend):
    batch = batched_from_list([structure(seed, pbc=bool(seed % 2)) for seed in range(20)])
    wanted = theirs.neighbor_list(dict(batch), R_MAX, backend=backend)
    for ours in (backend, "torch"):
        found = compute_neighborlist_(dict(batch), R_MAX, ours)
        assert rows(found) == rows(wanted)
        assert set(found) == set(wanted)


@pytest.mark.parametrize(
    "cutoffs", [{"H": 2.0}, {"H": {"C": 1.5, "O": 2.5}, "O": 2.0}, {"C": {"C": 1.0}}]
)
def test_pruned_edges_are_those_of_the_reference(theirs, cutoffs):
    pruned = 0
    for seed in range(20):
        frame = structure(seed, pbc=bool(seed % 2))
        arguments = (R_MAX, cutoffs, NAMES, "matscipy")
        wanted = theirs.transforms.NeighborListTransform(*arguments)(dict(frame))
        found = NeighborListTransform(*arguments)(dict(frame))
        assert rows(found) == rows(wanted)
        whole = compute_neighborlist_(dict(frame), R_MAX)
        pruned += whole["edge_index"].shape[1] - found["edge_index"].shape[1]
    assert pruned > 0


def test_column_major_order_is_that_of_the_reference(theirs):
    """Among edges of the same pair the reference leaves the order open: their ends are compared."""
    for seed in range(20):
        frame = structure(seed, pbc=True)
        wanted = theirs.transforms.SortedNeighborListTransform(R_MAX)(dict(frame))
        found = SortedNeighborListTransform(R_MAX)(dict(frame))
        assert torch.equal(found["edge_index"], wanted["edge_index"])
        ordered = [data["edge_index"][:, data["edge_transpose_perm"]] for data in (found, wanted)]
        assert torch.equal(*ordered)
        assert found["edge_transpose_perm"].dtype == wanted["edge_transpose_perm"].dtype
