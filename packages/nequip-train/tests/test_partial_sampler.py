"""Epochs that are shorter than the data set."""

from __future__ import annotations

import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_train.data.partial_sampler import PartialSampler
from nequip_train.modules import NequIPLightningModule


def epochs(sampler, count):
    found = []
    for epoch in range(count):
        sampler.step_epoch(epoch)
        found.append(list(sampler))
    return found


def test_all_samples_come_in_turn_over_the_epochs():
    sampler = PartialSampler(range(5), shuffle=False, num_samples_per_epoch=2)
    assert epochs(sampler, 5) == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
    assert len(sampler) == 2
    assert len(PartialSampler(range(5))) == 5


def test_every_pass_has_an_order_of_its_own_that_the_seed_alone_decides():
    def generator():
        return torch.Generator().manual_seed(3)

    sampler = PartialSampler(range(10), num_samples_per_epoch=4, generator=generator())
    row = [index for epoch in epochs(sampler, 5) for index in epoch]
    assert sorted(row[:10]) == sorted(row[10:]) == list(range(10))
    assert row[:10] != row[10:]
    # As of the documented implementation: the orders of the seeds 3 and 4.
    assert row[:10] == torch.randperm(10, generator=generator()).tolist()
    again = PartialSampler(range(10), num_samples_per_epoch=4, generator=generator())
    again.step_epoch(3)
    assert list(again) == row[12:16]


def test_too_many_samples_are_refused():
    with pytest.raises(ConfigError, match="from 1 to 3"):
        PartialSampler(range(3), num_samples_per_epoch=7)


def test_the_data_module_gives_it_data_set_and_seed_and_lightning_the_epoch(small):
    data = small.data()
    data.loader_configs["train"] = {
        "_target_": "torch.utils.data.DataLoader",
        "sampler": {"_target_": "nequip.data.PartialSampler", "num_samples_per_epoch": 4},
    }
    trainer = small.trainer(max_epochs=3)
    trainer.fit(small.module(NequIPLightningModule), datamodule=data)
    assert trainer.global_step == 12
    sampler = trainer.train_dataloader.sampler
    assert sampler.seed == 1
    assert sampler.epoch == 2
