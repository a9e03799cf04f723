"""Schedule-free training gives what the library itself gives."""

from __future__ import annotations

import copy

import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_core.saved_model import SOLE_MODEL
from nequip_model.checkpoint import load_checkpoint
from nequip_train.schedule_free import ScheduleFreeLightningModule

schedulefree = pytest.importorskip("schedulefree", reason="an optional library")

KINDS = {
    "AdamWScheduleFree": {"lr": 0.01, "warmup_steps": 2},
    "RAdamScheduleFree": {"lr": 0.01},
    "SGDScheduleFree": {"lr": 0.5},
}


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def trained(small, kind, epochs=2, **arguments):
    optimizer = {"_target_": f"schedulefree.{kind}", **KINDS[kind]}
    module = small.module(ScheduleFreeLightningModule, optimizer=optimizer)
    trainer = small.trainer(max_epochs=epochs)
    trainer.fit(module, datamodule=small.data(), **arguments)
    return module, trainer


def by_the_library(small, kind, epochs=2):
    """The same training by a loop of the library's documentation: y, and x to evaluate with."""
    module = small.module(
        ScheduleFreeLightningModule, optimizer={"_target_": f"schedulefree.{kind}"}
    )
    data = small.data()
    data.setup("fit")
    parameters = list(module.model.parameters())
    optimizer = getattr(schedulefree, kind)(parameters, **KINDS[kind])
    optimizer.train()
    for _ in range(epochs):
        for batch in data.train_dataloader():
            optimizer.zero_grad()
            module.loss(module(batch), batch)["weighted_sum"].backward()
            optimizer.step()
    y = flat(parameters)
    optimizer.eval()
    return y, flat(parameters)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_averages_are_those_of_the_library(small, kind):
    module, _ = trained(small, kind)
    y, x = by_the_library(small, kind)
    torch.testing.assert_close(flat(module.model.parameters()), y, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(flat(module.ema.weights()), x, rtol=1e-12, atol=1e-14)
    assert not torch.equal(x, y)
    assert torch.equal(flat(module.evaluation_model.parameters()), flat(module.ema.weights()))


def test_a_checkpoint_predicts_with_the_averages_and_continues_with_the_rest(small, tmp_path):
    whole, _ = trained(small, "AdamWScheduleFree", epochs=4)
    half, trainer = trained(small, "AdamWScheduleFree", epochs=2)
    path = tmp_path / "half.ckpt"
    trainer.save_checkpoint(path)
    saved = load_checkpoint(path)
    assert torch.equal(flat(saved.models.parameters()), flat(half.ema.weights()))
    content = torch.load(path, weights_only=True)
    assert content["schedulefree_optimizer_state_dict"]["param_groups"][0]["train_mode"]
    rest, _ = trained(small, "AdamWScheduleFree", epochs=4, ckpt_path=path, weights_only=True)
    assert torch.equal(flat(rest.model.parameters()), flat(whole.model.parameters()))
    assert torch.equal(flat(rest.ema.weights()), flat(whole.ema.weights()))


def test_validation_uses_the_averages_and_leaves_the_training_alone(small):
    module, trainer = trained(small, "SGDScheduleFree")
    before = flat(module.model.parameters())
    values = trainer.validate(module, datamodule=small.data(), verbose=False)
    assert torch.equal(flat(module.model.parameters()), before)
    other = copy.deepcopy(module)
    other.model[SOLE_MODEL].load_state_dict(module.evaluation_model[SOLE_MODEL].state_dict())
    other.ema.copy_to(other.model)
    expected = small.trainer().validate(other, datamodule=small.data(), verbose=False)
    assert values == expected
    frozen = small.module(
        ScheduleFreeLightningModule,
        optimizer={"_target_": "schedulefree.SGDScheduleFree", **KINDS["SGDScheduleFree"]},
    )
    small.trainer(limit_val_batches=0).fit(frozen, datamodule=small.data())
    assert torch.equal(flat(frozen.model.parameters()), before)


def test_another_optimizer_is_refused(small):
    with pytest.raises(
        ConfigError, match=r"schedulefree\.AdamWScheduleFree.*got 'torch.optim.Adam'"
    ):
        small.module(ScheduleFreeLightningModule)
