"""Loaders: the share of each process, and what they get where a config says nothing."""

from __future__ import annotations

import os

import pytest
import torch

from nequip_core.errors import ConfigError, DataError
from nequip_train.data.datasets import EMTTestDataset
from nequip_train.data.loaders import LOADER, Surroundings, build_loader, errors_of_workers
from nequip_train.data.shares import emptied_, is_filling

WHERE = "data.train_dataloader"


@pytest.fixture(scope="module")
def frames():
    """Seven frames that are told apart by their energies."""
    dataset = EMTTestDataset(supercell=(1, 1, 1), num_frames=7)
    for index, frame in enumerate(dataset.frames):
        frame["total_energy"] = torch.tensor([[float(index)]], dtype=torch.float64)
    return dataset


def loader_of(frames, rank=0, world_size=1, **config):
    around = Surroundings(rank, world_size, world_size)
    generator = torch.Generator().manual_seed(3)
    return build_loader({"_target_": LOADER, **config}, WHERE, frames, generator, around)


def numbers(loader):
    """Return the frames of every batch; none of a filling one."""
    return [
        [] if is_filling(batch) else batch["total_energy"].int().flatten().tolist()
        for batch in loader
    ]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_the_processes_together_have_the_batches_of_one(frames, world_size, shuffle, drop_last):
    options = {"shuffle": shuffle, "drop_last": drop_last}
    one = numbers(loader_of(frames, batch_size=2 * world_size, **options))
    shares = [
        numbers(loader_of(frames, rank, world_size, batch_size=2, **options))
        for rank in range(world_size)
    ]
    assert {len(share) for share in shares} == {len(one)}
    for index, batch in enumerate(one):
        parts = [share[index] for share in shares]
        assert sorted(frame for part in parts for frame in part) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_later_epochs_are_those_of_one_process_too(frames):
    one = loader_of(frames, batch_size=4, shuffle=True)
    two = [loader_of(frames, rank, 2, batch_size=2, shuffle=True) for rank in range(2)]
    for _ in range(3):
        whole = numbers(one)
        parts = [numbers(loader) for loader in two]
        assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(b) for b in whole]


def test_samplers_of_ours_are_shared_and_others_refused(frames):
    partial = {"_target_": "nequip.data.PartialSampler", "num_samples_per_epoch": 5}
    one = numbers(loader_of(frames, batch_size=4, sampler=partial))
    two = [numbers(loader_of(frames, rank, 2, batch_size=2, sampler=partial)) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*two, strict=True)] == [sorted(batch) for batch in one]
    limited = {"_target_": "nequip.data.SizeLimitedBatchSampler", "max_frames": 3}
    two = [numbers(loader_of(frames, rank, 2, batch_sampler=limited)) for rank in range(2)]
    assert two == [[[0, 1, 2], [6]], [[3, 4, 5], []]]
    other = {"_target_": "torch.utils.data.SequentialSampler"}
    assert numbers(loader_of(frames, batch_size=7, sampler=other)) == [list(range(7))]
    with pytest.raises(ConfigError, match=r"train_dataloader.sampler: only one process can use it"):
        loader_of(frames, 0, 2, sampler=other)


def test_lightning_tells_a_shared_sampler_the_epoch(frames):
    from lightning.fabric.utilities.data import _set_sampler_epoch

    partial = {"_target_": "nequip.data.PartialSampler", "shuffle": False}
    loader = loader_of(frames, 0, 2, sampler={**partial, "num_samples_per_epoch": 2})
    assert numbers(loader) == [[0]]
    _set_sampler_epoch(loader, 2)
    assert numbers(loader) == [[4]]


def test_a_filling_batch_has_every_field_and_no_frame(frames):
    assert not any(is_filling(batch) for batch in loader_of(frames, 1, 2, batch_size=4))
    batch = list(loader_of(frames, 4, 5, batch_size=1))[-1]
    assert is_filling(batch)
    assert not is_filling(batch)
    fields = set(batch)
    # Of its own: what the data set holds must not require gradients, workers could not send it.
    energy = batch["total_energy"] = batch["total_energy"].clone().requires_grad_()
    empty = emptied_(batch)
    assert set(empty) == fields
    assert empty["pos"].shape == (0, 3)
    assert empty["num_atoms"].shape == (0,)
    (gradient,) = torch.autograd.grad(empty["total_energy"].sum(), energy)
    assert torch.equal(gradient, torch.zeros_like(energy))


@pytest.mark.parametrize(
    ("cores", "neighbours", "part", "expected"),
    [
        (16, 1, "train", 4),
        (16, 1, "val", 2),
        (16, 8, "train", 1),
        (8, 8, "train", 0),
        (1, 1, "val", 0),
    ],
)
def test_workers_leave_a_core_to_each_process(cores, neighbours, part, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    around = Surroundings(neighbours=neighbours, world_size=neighbours, on_gpu=True)
    assert around.workers(part) == expected
    assert Surroundings(neighbours=neighbours).workers(part) == 0


def test_what_a_config_says_is_kept_and_workers_stay(frames):
    loader = loader_of(frames)
    assert (loader.num_workers, loader.persistent_workers, loader.pin_memory) == (0, False, False)
    loader = loader_of(frames, num_workers=1)
    assert (loader.num_workers, loader.persistent_workers) == (1, True)
    loader = loader_of(frames, num_workers=1, persistent_workers=False)
    assert not loader.persistent_workers


def test_workers_give_the_same_batches_and_leave_threads_alone(frames):
    threads = torch.get_num_threads()
    plain = [numbers(loader_of(frames, rank, 2, batch_size=2, shuffle=True)) for rank in range(2)]
    workers = [
        numbers(loader_of(frames, rank, 2, batch_size=2, shuffle=True, num_workers=1))
        for rank in range(2)
    ]
    assert workers == plain
    assert torch.get_num_threads() == threads


def needs_gradients(frame):
    return {**frame, "pos": frame["pos"].clone().requires_grad_() * 1.0}


def refused(frame):
    raise DataError("two lines\nof a message")


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_data_that_require_gradients_are_refused_with_and_without_workers(num_workers, batch_size):
    dataset = EMTTestDataset([needs_gradients], supercell=(1, 1, 1), num_frames=2)
    loader = loader_of(dataset, batch_size=batch_size, num_workers=num_workers)
    message = r"^'pos' of a frame requires gradients; .* \.detach\(\)"
    with pytest.raises(DataError, match=message), errors_of_workers():
        next(iter(loader))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_mistake_in_data_is_told_alike_with_and_without_workers(num_workers):
    dataset = EMTTestDataset([refused], supercell=(1, 1, 1), num_frames=2)
    with pytest.raises(DataError) as caught, errors_of_workers():
        next(iter(loader_of(dataset, num_workers=num_workers)))
    assert str(caught.value) == "frame 0 of EMTTestDataset: two lines\nof a message"


def test_bugs_in_workers_keep_their_traceback(frames):
    def broken(frame):
        raise ZeroDivisionError("a bug")

    dataset = EMTTestDataset([broken], supercell=(1, 1, 1), num_frames=2)
    with pytest.raises(ZeroDivisionError, match="Original Traceback"), errors_of_workers():
        next(iter(loader_of(dataset, num_workers=1)))
