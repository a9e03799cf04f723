"""Huber's loss with a width by the size of the reference force."""

from __future__ import annotations

import pytest
import torch

from nequip_core.errors import ConfigError
from nequip_train.stratified_huber import StratifiedHuberForceLoss


def forces():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([0.1, 0.3, 1.0, 3.0, 10.0, 30.0], dtype=torch.float64)
    target = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    target = target / target.norm(dim=1, keepdim=True) * sizes[:, None]
    error = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    return target + error, target


def huber(predicted, target, delta):
    return torch.nn.functional.huber_loss(predicted, target, delta=delta, reduction="sum")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_every_vector_has_the_width_of_its_stratum(reduction):
    predicted, target = forces()
    loss = StratifiedHuberForceLoss({0: 1.0, 0.9: 0.1, 5: 0.01}, reduction)
    expected = sum(
        huber(predicted[rows], target[rows], delta)
        for rows, delta in ((slice(0, 2), 1.0), (slice(2, 4), 0.1), (slice(4, 6), 0.01))
    )
    expected = expected / 18 if reduction == "mean" else expected
    torch.testing.assert_close(loss(predicted, target), expected)
    assert str(loss) == "stratified huber"


def test_a_vector_at_a_bound_belongs_to_the_stratum_above():
    target = torch.tensor([[0.0, 3.0, 4.0]], dtype=torch.float64)
    predicted = target + 1.0
    value = StratifiedHuberForceLoss({0: 10.0, 5.0: 0.1}, "sum")(predicted, target)
    torch.testing.assert_close(value, huber(predicted, target, 0.1))


def test_below_the_first_bound_it_is_half_the_squared_error():
    predicted, target = forces()
    loss = StratifiedHuberForceLoss({5: 0.01}, "sum")
    expected = 0.5 * (predicted - target)[:4].square().sum()
    expected = expected + huber(predicted[4:], target[4:], 0.01)
    torch.testing.assert_close(loss(predicted, target), expected)


def test_its_gradient_is_finite_and_bounded_by_the_width():
    predicted, target = forces()
    predicted.requires_grad_()
    StratifiedHuberForceLoss({5: 0.01}, "sum")(predicted, target).backward()
    torch.testing.assert_close(predicted.grad[:4], (predicted - target).detach()[:4])
    assert predicted.grad[4:].abs().max().item() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({0: 0.1},), "HuberLoss"),
        (({-1: 0.1, 2: 0.1},), "bounds >= 0"),
        (({0: 0.0, 2: 0.1},), "deltas > 0"),
        (([0.1, 0.2],), "must map"),
        (({0: 0.1, 1: 0.2}, "max"), "mean or sum"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        StratifiedHuberForceLoss(*arguments)
