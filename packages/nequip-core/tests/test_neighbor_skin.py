"""A kept neighbor list gives the edges of a new one, at every step."""

import numpy as np
import pytest
import torch

from nequip_core.errors import ConfigError, DataError
from nequip_core.frames import batched_from_list, from_dict
from nequip_core.neighbors import SkinnedNeighborList, compute_neighborlist_

R_MAX, SKIN = 3.0, 0.6
CELL = np.array([[5.0, 0.0, 0.0], [0.7, -4.6, 0.0], [-0.4, 0.8, 5.3]])  # left-handed


def structure(rng, cell=CELL, pbc=(True, True, True), atoms=12):
    return rng.uniform(-1.0, 2.0, size=(atoms, 3)) @ cell, cell, pbc


def frame(positions, cell, pbc):
    return from_dict({"pos": positions, "cell": cell, "pbc": pbc})


def same_list(found, wanted):
    return all(torch.equal(found[key], wanted[key]) for key in ("edge_index", "edge_cell_shift"))


@pytest.mark.parametrize("backend", ["vesin", "torch"])
@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_list_of_each_step_is_that_of_a_new_one(backend, pbc):
    """Atoms drift, get wrapped by whole cells, and the cell is strained, at random."""
    rng = np.random.default_rng(0)
    positions, cell, pbc = structure(rng, pbc=pbc)
    kept = SkinnedNeighborList(R_MAX, SKIN, backend)
    for step in range(150):
        positions = positions + rng.normal(scale=0.03, size=positions.shape)
        if step > 50:  # strained, atoms carried along
            strain = np.eye(3) + rng.normal(scale=0.003, size=(3, 3))
            positions, cell = positions @ strain, cell @ strain
        wraps = rng.integers(-2, 3, size=positions.shape) * np.array(pbc)
        given = frame(positions + (wraps @ cell if step % 3 == 0 else 0.0), cell, pbc)
        assert same_list(kept(dict(given)), compute_neighborlist_(dict(given), R_MAX, backend))
    assert 5 < kept.builds < 75


def test_cell_strained_without_its_atoms_is_noticed():
    rng = np.random.default_rng(1)
    positions, cell, pbc = structure(rng)
    kept = SkinnedNeighborList(R_MAX, SKIN)
    kept(frame(positions, cell, pbc))
    wrapped = positions + 3.0 * cell[0]  # far from where they were in the old cell
    for factor in (1.001, 0.999, 1.3, 0.7):
        given = frame(wrapped, cell * factor, pbc)
        assert same_list(kept(dict(given)), compute_neighborlist_(dict(given), R_MAX))


def test_list_is_made_anew_only_after_half_the_skin():
    positions = np.array([[0.0, 0, 0], [2.0, 0, 0], [3.5, 0, 0]])
    kept = SkinnedNeighborList(R_MAX, SKIN)
    for shift, builds in ((0.0, 1), (0.29, 1), (-0.29, 1), (0.31, 2), (0.5, 2), (0.0, 3)):
        moved = positions.copy()
        moved[2, 0] += shift
        found = kept(from_dict({"pos": moved}))
        assert kept.builds == builds
        assert (
            found["edge_index"].shape[1]
            == compute_neighborlist_(from_dict({"pos": moved}), R_MAX)["edge_index"].shape[1]
        )


def test_another_structure_makes_a_new_list():
    rng = np.random.default_rng(2)
    positions, cell, _ = structure(rng)
    kept = SkinnedNeighborList(R_MAX, SKIN)
    structures = [
        frame(positions, cell, True),
        frame(positions[:-1], cell, True),
        frame(positions[:-1], cell, [True, True, False]),
        frame(positions[:-1], cell * 2.0, True),
        from_dict({"pos": positions[:-1]}),
        {key: value.float() if value.is_floating_point() else value
         for key, value in frame(positions, cell, True).items()},
    ]  # fmt: skip
    for number, given in enumerate(structures):
        found, wanted = kept(dict(given)), compute_neighborlist_(dict(given), R_MAX)
        assert kept.builds == number + 1
        assert torch.equal(found["edge_index"], wanted["edge_index"])
    batch = batched_from_list(structures[:2])
    assert same_list(kept(dict(batch)), compute_neighborlist_(dict(batch), R_MAX))


def test_slab_without_its_third_vector_keeps_its_list():
    rng = np.random.default_rng(3)
    cell = CELL.copy()
    cell[2] = 0.0
    positions = rng.uniform(size=(8, 3)) * 4.0
    kept = SkinnedNeighborList(R_MAX, SKIN)
    for step in range(10):
        given = frame(positions + 0.01 * step + cell[0] * (step % 2), cell, [True, True, False])
        assert same_list(kept(dict(given)), compute_neighborlist_(dict(given), R_MAX))
    assert kept.builds == 1
    given = frame(positions, cell * 1.01, [True, True, False])
    assert same_list(kept(dict(given)), compute_neighborlist_(dict(given), R_MAX))


def test_positions_written_into_the_same_memory_are_noticed():
    rng = np.random.default_rng(4)
    given = frame(*structure(rng))
    kept = SkinnedNeighborList(R_MAX, SKIN)
    kept(given)
    given["pos"] += torch.tensor(rng.normal(size=(12, 3)))
    wanted = compute_neighborlist_(dict(given), R_MAX)
    assert same_list(kept(given), wanted) and kept.builds == 2


def test_without_a_skin_each_call_makes_a_list():
    given = frame(*structure(np.random.default_rng(5)))
    kept = SkinnedNeighborList(R_MAX, 0.0)
    assert same_list(kept(dict(given)), kept(dict(given))) and kept.builds == 2


def test_positions_that_are_not_finite_are_named_and_nothing_is_kept():
    given = frame(*structure(np.random.default_rng(6)))
    kept = SkinnedNeighborList(R_MAX, SKIN)
    kept(dict(given))
    bad = {**given, "pos": given["pos"].clone()}
    bad["pos"][4, 1] = torch.nan
    with pytest.raises(DataError, match="position of atom 4 is not finite"):
        kept(dict(bad))
    bad = {**given, "cell": given["cell"] * torch.inf}
    with pytest.raises(DataError, match="cell is not finite"):
        kept(dict(bad))
    assert same_list(kept(dict(given)), compute_neighborlist_(dict(given), R_MAX))


@pytest.mark.parametrize("skin", [-0.1, float("nan"), float("inf")])
def test_skin_that_is_negative_or_not_finite_is_refused(skin):
    with pytest.raises(ConfigError, match="skin of a neighbor list must be zero or more"):
        SkinnedNeighborList(R_MAX, skin)
