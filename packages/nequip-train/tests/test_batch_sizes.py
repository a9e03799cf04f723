"""Batches of limited size: limits hold, every frame is there once, and the count stays."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from nequip_core.errors import ConfigError, DataError
from nequip_train.data.ase_datamodule import ASEDataModule
from nequip_train.data.batch_sizes import SizeLimitedBatchSampler
from nequip_train.data.shares import DealtBatches, SplitBatches


class Sized:
    """A data set of which only the sizes are asked for."""

    def __init__(self, count=400, seed=0):
        generator = np.random.default_rng(seed)
        self.atoms = generator.integers(1, 60, count)
        self.edges = self.atoms * generator.integers(5, 40, count)

    def __len__(self):
        return len(self.atoms)

    def num_atoms(self, indices):
        return self.atoms[list(indices)].tolist()

    def num_edges(self, indices):
        return self.edges[list(indices)].tolist()


def epochs(sampler, count=30):
    return [list(sampler) for _ in range(count)]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "limits",
    [
        {"max_atoms": 200},
        {"max_edges": 4000},
        {"max_atoms": 200, "max_edges": 3000, "max_frames": 6},
    ],
)
def test_limits_hold_and_every_frame_is_in_one_batch_of_every_epoch(limits, shuffle):
    data = Sized()
    generator = torch.Generator().manual_seed(1)
    sampler = SizeLimitedBatchSampler(data, **limits, shuffle=shuffle, generator=generator)
    counts = set()
    for batches in epochs(sampler):
        counts.add(len(batches))
        assert sorted(index for batch in batches for index in batch) == list(range(len(data)))
        for batch in batches:
            assert batch
            assert data.atoms[batch].sum() <= limits.get("max_atoms", 10**9)
            assert data.edges[batch].sum() <= limits.get("max_edges", 10**9)
            assert len(batch) <= limits.get("max_frames", 10**9)
    assert counts == {len(sampler)}


def test_batches_are_nearly_full():
    data = Sized(4000)
    generator = torch.Generator().manual_seed(1)
    sampler = SizeLimitedBatchSampler(data, max_atoms=1000, shuffle=True, generator=generator)
    assert len(sampler) < 1.08 * data.atoms.sum() / 1000


def test_an_order_that_needs_too_many_batches_is_replaced_by_the_kept_one(monkeypatch):
    """Frames of 1 and of 9 atoms, 10 in a batch: some orders need far more batches than others."""
    data = Sized(100)
    data.atoms = np.array([1, 9] * 50)
    monkeypatch.setattr("nequip_train.data.batch_sizes._SPARE", 0.0)
    generator = torch.Generator().manual_seed(1)
    sampler = SizeLimitedBatchSampler(data, max_atoms=10, shuffle=True, generator=generator)
    needed = {len(sampler._filled(torch.randperm(100).tolist())) for _ in range(30)}
    assert max(needed) > len(sampler)
    for batches in epochs(sampler):
        assert len(batches) == len(sampler)
        assert sorted(index for batch in batches for index in batch) == list(range(100))
        assert all(data.atoms[batch].sum() <= 10 for batch in batches)


def test_the_order_follows_from_the_seed_and_differs_between_epochs():
    def sampler(seed):
        generator = torch.Generator().manual_seed(seed)
        return SizeLimitedBatchSampler(Sized(), max_atoms=200, shuffle=True, generator=generator)

    first, again, other = (epochs(sampler(seed), 3) for seed in (1, 1, 2))
    assert first == again
    assert first[0] != first[1]
    assert first[0] != other[0]


def test_the_state_of_the_generator_continues_the_order():
    generator = torch.Generator().manual_seed(1)
    sampler = SizeLimitedBatchSampler(Sized(), max_atoms=200, shuffle=True, generator=generator)
    next(iter(epochs(sampler, 2)))
    state = generator.get_state()
    rest = epochs(sampler, 2)
    generator = torch.Generator()
    generator.set_state(state)
    resumed = SizeLimitedBatchSampler(Sized(), max_atoms=200, shuffle=True, generator=generator)
    assert epochs(resumed, 2) == rest


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_dealt_batches_are_all_batches_and_as_many_in_every_process(count):
    batches = [[index, index + 100] for index in range(count)]
    dealt = [list(DealtBatches(batches, rank, 3)) for rank in range(3)]
    assert {len(share) for share in dealt} == {len(DealtBatches(batches, 0, 3))} == {-(-count // 3)}
    assert sorted(batch for share in dealt for batch in share if batch) == batches


def test_split_batches_have_every_frame_once():
    batches = [[5, 3, 1, 0], [2, 4, 6]]
    shares = [list(SplitBatches(batches, rank, 2)) for rank in range(2)]
    assert shares == [[[5, 1], [2, 6]], [[3, 0], [4]]]
    assert list(SplitBatches([[1]], 1, 2)) == [[]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs a limit: max_edges, max_atoms or max_frames"),
        ({"max_atoms": 0}, "max_atoms must be a positive integer, got 0"),
        ({"max_edges": 10.5}, "max_edges must be a positive integer, got 10.5"),
        ({"max_frames": True}, "max_frames must be a positive integer, got True"),
    ],
)
def test_a_limit_that_is_none_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SizeLimitedBatchSampler(Sized(), **arguments)


CONFIG = {
    "seed": 1,
    "split_dataset": {"file_path": "data.xyz", "train": 8, "val": 4},
    "transforms": [
        {
            "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
            "model_type_names": ["Al", "Cu"],
        },
        {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": 3.0},
    ],
    "train_dataloader": {
        "batch_sampler": {
            "_target_": "nequip.data.SizeLimitedBatchSampler",
            "max_edges": 170,
            "shuffle": True,
        }
    },
    "stats_manager": {
        "_target_": "nequip.data.CommonDataStatisticsManager",
        "type_names": ["Al", "Cu"],
        "dataloader_kwargs": {"batch_size": 3},
    },
}


@pytest.mark.parametrize("cached", [True, False])
def test_a_config_has_batches_of_limited_size(cached, workplace, monkeypatch, caplog):
    if not cached:
        monkeypatch.setenv("NEQUIP_FRAME_CACHE", "off")
    caplog.set_level(logging.INFO)
    module = ASEDataModule(**CONFIG)
    # Of all frames, whatever the sampler.
    assert module.get_statistics()["num_neighbors_mean"] > 10.0
    module.setup("fit")
    loader = module.train_dataloader()
    edges = [batch["edge_index"].shape[1] for batch in loader]
    assert len(edges) == len(loader) == 3 + 1
    assert max(edges) <= 170
    assert sum(edges) == sum(frame["edge_index"].shape[1] for frame in module.datasets["train"][0])


def test_a_frame_that_is_larger_than_a_batch_is_named_by_its_number_in_the_file(workplace):
    sampler = {**CONFIG["train_dataloader"]["batch_sampler"], "max_edges": 20}
    module = ASEDataModule(**{**CONFIG, "train_dataloader": {"batch_sampler": sampler}})
    module.setup("fit")
    part = module.datasets["train"][0]
    sizes = part.num_edges(range(len(part)))
    frame = part.indices[int(np.argmax(sizes))]
    message = (
        rf"data.train_dataloader.batch_sampler: max_edges: 20 is less than the {max(sizes)} edges "
        rf"of frame {frame} of 'data.xyz' alone"
    )
    with pytest.raises(DataError, match=message):
        module.train_dataloader()


def test_what_the_data_module_gives_cannot_be_in_the_config(workplace):
    sampler = {**CONFIG["train_dataloader"]["batch_sampler"], "generator": None}
    module = ASEDataModule(**{**CONFIG, "train_dataloader": {"batch_sampler": sampler}})
    module.setup("fit")
    with pytest.raises(ConfigError, match=r"batch_sampler.generator: is given by the data module"):
        module.train_dataloader()


def test_a_run_with_batches_of_limited_size_trains(config, train, logged):
    config["data"]["train_dataloader"] = CONFIG["train_dataloader"]
    config["cutoff_radius"] = 3.0
    assert train(config) == 0
    steps = logged()["train_loss_step/weighted_sum"]
    assert len(steps) % config["trainer"]["max_epochs"] == 0
