"""Wall time of neighbor lists against the reference in one run: read ratios, not times."""

import warnings

import numpy as np
import pytest
import torch
from ase.build import bulk

from nequip_core.frames import from_dict
from nequip_core.neighbors import SkinnedNeighborList, compute_neighborlist_

pytestmark = pytest.mark.filterwarnings("ignore")  # raised inside the reference

R_MAX = 5.0
# Repetitions of a cubic cell of 4 atoms, and rounds.
SIZES = {"1k": (6, 9), "10k": (14, 5), "100k": (29, 3)}
LISTS = [
    "ours vesin",
    "ours matscipy",
    "ours torch",
    "nequip 0.19.1 vesin",
    "nequip 0.19.1 matscipy",
]


def reference_list():
    pytest.importorskip("nequip", reason="the bench session installs nequip==0.19.1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nequip.data import compute_neighborlist_ as reference
    return reference


def copper(size):
    """Rattled fcc copper, 43 neighbours an atom."""
    atoms = bulk("Cu", cubic=True).repeat((SIZES[size][0],) * 3)
    atoms.rattle(0.1, seed=0)
    return from_dict({"pos": atoms.positions, "cell": np.array(atoms.cell), "pbc": True})


@pytest.mark.parametrize("which", LISTS)
@pytest.mark.parametrize("size", SIZES)
def test_neighbor_list(benchmark, size, which):
    benchmark.group = f"neighbor list, {size} atoms"
    origin, _, backend = which.rpartition(" ")
    pytest.importorskip(backend)
    find = compute_neighborlist_ if origin == "ours" else reference_list()
    frame = copper(size)
    benchmark.pedantic(
        lambda: find(dict(frame), R_MAX, backend), warmup_rounds=1, rounds=SIZES[size][1]
    )


@pytest.mark.parametrize("which", LISTS)
def test_batch_of_molecules(benchmark, which):
    """200 frames of 20 atoms without a cell, as a training batch has them."""
    benchmark.group = "neighbor list, batch of 200 molecules of 20 atoms"
    origin, _, backend = which.rpartition(" ")
    pytest.importorskip(backend)
    find = compute_neighborlist_ if origin == "ours" else reference_list()
    rng = np.random.default_rng(0)
    batch = {
        "pos": torch.tensor(rng.normal(size=(4000, 3)) * 2.5),
        "cell": torch.zeros(200, 3, 3, dtype=torch.float64),
        "pbc": torch.zeros(200, 3, dtype=torch.bool),
        "batch": torch.arange(200).repeat_interleave(20),
        "num_atoms": torch.full((200,), 20),
    }
    benchmark.pedantic(lambda: find(dict(batch), R_MAX, backend), warmup_rounds=1, rounds=5)


@pytest.mark.parametrize("skin", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", SIZES)
def test_step_of_a_simulation(benchmark, size, skin):
    """Steps of 0.01 Angstrom along each axis, 40 away from the start and 40 back."""
    benchmark.group = f"list of a simulation's step, {size} atoms"
    frame, kept, step = copper(size), SkinnedNeighborList(R_MAX, skin), 0
    drift = torch.tensor(np.random.default_rng(0).choice([-0.01, 0.01], size=frame["pos"].shape))

    def next_step():
        nonlocal step
        step += 1
        return kept({**frame, "pos": frame["pos"] + drift * abs(step % 80 - 40)})

    # A round has many steps, so that new lists have their share in it.
    benchmark.pedantic(next_step, warmup_rounds=1, rounds=1, iterations=4 if size == "100k" else 40)
