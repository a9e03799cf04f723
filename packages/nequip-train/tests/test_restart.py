"""A continued run ends where an uninterrupted one does."""

from __future__ import annotations

import pytest
import torch


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same_weights(first, second):
    a, b = weights(first), weights(second)
    assert list(a) == list(b)
    for name, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[name]), name
    assert a["ema._extra_state"] == b["ema._extra_state"]


CALLBACK = "lightning.pytorch.callbacks.ModelCheckpoint"


@pytest.mark.parametrize("monitor", [None, "val0_epoch/weighted_sum"])
def test_a_continued_run_equals_an_uninterrupted_one(monitor, config, train, logged, workplace):
    config["run"] = ["train", "test"]
    config["trainer"]["callbacks"][0]["monitor"] = monitor
    assert train(config, "hydra.run.dir=whole", "trainer.max_epochs=3") == 0
    whole = logged()
    assert train(config, "hydra.run.dir=first", "trainer.max_epochs=1") == 0
    # The training module is that of the checkpoint: what the config says now is not looked at.
    config["training_module"]["model"]["num_layers"] = "not even a number"
    ckpt = "++ckpt_path=first/last.ckpt"
    assert train(config, "hydra.run.dir=rest", "trainer.max_epochs=3", ckpt) == 0
    assert_same_weights(workplace / "whole/last.ckpt", workplace / "rest/last.ckpt")
    rest = logged()
    assert rest["train_loss_step/weighted_sum"] == whole["train_loss_step/weighted_sum"][3:]
    for name in ("val0_epoch/weighted_sum", "train_loss_epoch/weighted_sum"):
        assert rest[name] == whole[name][1:]
    assert rest["test0_epoch/forces_mae"] == whole["test0_epoch/forces_mae"]


def test_stages_that_differ_from_the_checkpoint_are_refused(config, train, capsys):
    config["run"] = ["train"]
    config["trainer"]["max_epochs"] = 1
    assert train(config, "hydra.run.dir=first") == 0
    assert train(config, "++ckpt_path=first/last.ckpt", "run=[test]") == 1
    assert "run: ['test'] must begin with the stages of the checkpoint" in capsys.readouterr().err


def test_a_finished_run_continued_only_tests(config, train, logged):
    config["run"] = ["train", "test"]
    assert train(config) == 0
    before = logged()
    assert train(config, "++ckpt_path=out/last.ckpt") == 0
    after = logged()
    assert "train_loss_step/weighted_sum" not in after
    assert after["test0_epoch/weighted_sum"] == before["test0_epoch/weighted_sum"]
