"""The moving average of the weights, alone and in training."""

from __future__ import annotations

import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_model.checkpoint import load_checkpoint
from nequip_train.ema import EMAWeights


def test_the_average_follows_its_formula():
    model = torch.nn.Linear(2, 1)
    ema = EMAWeights(model, decay=0.3)
    expected = [parameter.detach().clone() for parameter in model.parameters()]
    for update in range(1, 6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(update)
        ema.update(model)
        decay = min(0.3, (1 + update) / (10 + update))
        for index, parameter in enumerate(model.parameters()):
            expected[index] = decay * expected[index] + (1 - decay) * parameter.detach()
    for value, average in zip(expected, ema.weights(), strict=True):
        torch.testing.assert_close(average, value)
    assert sorted(ema.state_dict()) == ["_extra_state", "ema_weight_0", "ema_weight_1"]
    assert ema.state_dict()["_extra_state"] == {
        "decay": 0.3,
        "num_updates": 5,
        "is_holding_ema_weights": True,
    }


def test_weights_are_back_after_they_were_exchanged_even_after_an_error():
    model = torch.nn.Linear(2, 1)
    ema = EMAWeights(model, decay=0.9)
    own = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="stop"), ema.applied(model):
        torch.testing.assert_close(model.weight.detach(), own)
        raise RuntimeError("stop")
    torch.testing.assert_close(model.weight.detach(), own + 1.0)
    torch.testing.assert_close(ema.weights()[0], own)


@pytest.mark.parametrize("decay", [-0.1, 1.1, "0.9", True])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ConfigError, match="ema_decay must be in"):
        EMAWeights(torch.nn.Linear(1, 1), decay)


def test_validation_uses_the_average_and_the_checkpoint_holds_both(
    config, train, logged, workplace
):
    config["run"] = ["train", "val"]
    config["training_module"]["ema_decay"] = 0.5
    config["trainer"]["check_val_every_n_epoch"] = 2
    assert train(config) == 0
    state = torch.load(workplace / "out/best.ckpt", weights_only=True)["state_dict"]
    names = [name for name in state if name.startswith("ema.ema_weight_")]
    saved = load_checkpoint(workplace / "out/best.ckpt")
    parameters = dict(saved.models.named_parameters())
    assert len(names) == len(parameters)
    differ = 0
    for index, (name, parameter) in enumerate(parameters.items()):
        assert torch.equal(parameter.detach(), state[f"ema.ema_weight_{index}"])
        differ += not torch.equal(state[f"model.{name}"], state[f"ema.ema_weight_{index}"])
    assert differ > 0
    # one validation during training, one of the 'val' stage, of the same weights
    values = logged()["val0_epoch/weighted_sum"]
    assert len(values) == 2
    assert values[0] == values[1]


def test_the_evaluation_model_is_a_copy_with_the_average(config, train, workplace):
    config["run"] = ["train"]
    assert train(config) == 0
    from nequip_train.modules import EMALightningModule

    module = EMALightningModule.load_from_checkpoint(workplace / "out/last.ckpt", weights_only=True)
    averaged = list(module.evaluation_model.parameters())
    for average, parameter in zip(module.ema.weights(), averaged, strict=True):
        assert torch.equal(average, parameter.detach())
    own = torch.load(workplace / "out/last.ckpt", weights_only=True)["state_dict"]
    for name, parameter in module.model.named_parameters():
        assert torch.equal(parameter.detach(), own[f"model.{name}"])
