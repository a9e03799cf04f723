"""Conflict-free gradients, and the training modules that use them."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from nequip_core.errors import ConfigError
from nequip_train.conflict_free import (
    ConFIGLightningModule,
    EMAConFIGLightningModule,
    conflict_free_direction,
)

pytestmark = pytest.mark.filterwarnings("ignore:You requested to overfit")


def gradients(seed=0, rows=3, size=20):
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    # Of very different lengths, and the first two in conflict.
    found[1] = -0.9 * found[0] + 0.3 * found[1]
    return found * torch.tensor([1.0, 1e3, 1e-3], dtype=torch.float64)[:rows, None]


def cosines(found, rows):
    return (rows @ found) / (rows.norm(dim=1) * found.norm())


@pytest.mark.parametrize("lsqr", [True, False])
def test_the_direction_has_equal_positive_cosines_with_all_gradients(lsqr):
    rows = gradients()
    assert cosines(rows[0], rows)[1] < 0  # there is a conflict to solve
    found = cosines(conflict_free_direction(rows, torch.ones(3) / 3, lsqr), rows)
    assert (found > 0).all()
    torch.testing.assert_close(found, found[:1].expand(3), rtol=1e-9, atol=0)


def test_the_cosines_stand_in_the_ratio_of_the_coefficients():
    rows, rates = gradients(1), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    found = cosines(conflict_free_direction(rows, rates), rows)
    torch.testing.assert_close(found / found.sum(), rates, rtol=1e-9, atol=0)


def test_it_is_as_long_as_the_projections_of_the_gradients_together():
    rows = gradients(2)
    found = conflict_free_direction(rows, torch.ones(3))
    projections = rows @ found / found.norm()
    torch.testing.assert_close(found.norm(), projections.sum(), rtol=1e-12, atol=0)


def test_one_gradient_alone_is_followed_and_zeros_are_left_out():
    rows = gradients(3)
    torch.testing.assert_close(conflict_free_direction(rows[:1], torch.ones(1)), rows[0])
    with_zero = torch.cat([rows[:1], torch.zeros_like(rows[:1])])
    torch.testing.assert_close(conflict_free_direction(with_zero, torch.ones(2)), rows[0])
    assert not conflict_free_direction(torch.zeros(2, 5), torch.ones(2)).any()


def test_parameters_without_a_gradient_change_nothing():
    # The default driver of torch's least squares fails this in about one of 250 calls.
    for seed in range(500):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(2, 60, generator=generator, dtype=torch.float64)
        rows[:, 20:45] = 0.0
        rates = torch.tensor([0.25, 0.75], dtype=torch.float64)
        # Memory that the solver may find has been used.
        [torch.randint(1, 5, (60,), dtype=torch.int32) for _ in range(20)]
        found = cosines(conflict_free_direction(rows, rates), rows)
        torch.testing.assert_close(found / found.sum(), rates, rtol=1e-9, atol=0)


def test_parallel_gradients_are_followed():
    rows = gradients(4)[:1].expand(2, -1)
    found = conflict_free_direction(rows, torch.ones(2))
    torch.testing.assert_close(cosines(found, rows), torch.ones(2, dtype=torch.float64))


def term_gradients(small, batch):
    """The gradient of each term of the loss at the start."""
    module = small.module(ConFIGLightningModule)
    values = module.loss(module(batch), batch)
    names = ("per_atom_energy_mse", "forces_mse")
    rows = []
    for name in names:
        parts = torch.autograd.grad(
            values[name], list(module.model.parameters()), retain_graph=True, allow_unused=True
        )
        parameters = module.model.parameters()
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for p, g in zip(parameters, parts, strict=True)
                ]
            )
        )
    return torch.stack(rows)


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.model.parameters()])


def test_a_training_step_goes_against_the_conflict_free_direction(small):
    data = small.data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    expected = conflict_free_direction(
        term_gradients(small, batch), torch.tensor([0.25, 0.75], dtype=torch.float64)
    )
    module = small.module(
        ConFIGLightningModule, optimizer={"_target_": "torch.optim.SGD", "lr": 0.5}
    )
    before = flat(module)
    trainer = small.trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(module, datamodule=small.data())
    torch.testing.assert_close(before - flat(module), 0.5 * expected, rtol=1e-9, atol=1e-14)
    assert trainer.global_step == 1


@pytest.mark.parametrize(
    ("algorithm", "size"), [(None, lambda g: g.norm()), ("value", lambda g: g.abs().max())]
)
def test_gradients_are_clipped_by_the_module(small, algorithm, size):
    module = small.module(
        ConFIGLightningModule,
        optimizer={"_target_": "torch.optim.SGD", "lr": 1.0},
        gradient_clip_val=1e-5,
        gradient_clip_algorithm=algorithm,
    )
    before = flat(module)
    small.trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(
        module, datamodule=small.data()
    )
    assert size(before - flat(module)).item() == pytest.approx(1e-5, rel=1e-2)
    with pytest.raises(ConfigError, match="norm or value"):
        small.module(ConFIGLightningModule, gradient_clip_algorithm="both")
    with pytest.raises(MisconfigurationException, match="gradient_clip_val"):
        small.trainer(gradient_clip_val=1.0).fit(
            small.module(ConFIGLightningModule), datamodule=small.data()
        )


def test_a_batch_without_labels_for_one_term_follows_the_other(small):
    loss = {
        "_target_": "nequip.train.EnergyForceStressLoss",
        "coeffs": {"total_energy": None, "forces": 1.0, "stress": 1.0},
        "ignore_nan": {"stress": True},
    }
    module = small.module(
        ConFIGLightningModule, loss=loss, optimizer={"_target_": "torch.optim.SGD", "lr": 0.1}
    )
    module.process_target = lambda batch, *_: {
        **batch,
        "stress": torch.full_like(batch["stress"], torch.nan),
    }
    small.trainer(max_epochs=1).fit(module, datamodule=small.data())
    assert torch.isfinite(flat(module)).all()


def test_the_average_follows_every_step(small):
    module = small.module(EMAConFIGLightningModule, ema_decay=0.5)
    start = flat(module)
    small.trainer(max_epochs=1).fit(module, datamodule=small.data())
    average = torch.cat([weight.flatten() for weight in module.ema.weights()])
    assert module.ema.num_updates == 3
    assert not torch.equal(average, start)
    assert not torch.equal(average, flat(module))
    evaluated = torch.cat([p.flatten() for p in module.evaluation_model.parameters()])
    assert torch.equal(evaluated, average)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_schedulers_of_all_kinds_step(small, interval):
    schedule = {
        "scheduler": {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.5},
        "interval": interval,
    }
    module = small.module(ConFIGLightningModule, lr_scheduler=schedule)
    trainer = small.trainer(max_epochs=2)
    trainer.fit(module, datamodule=small.data())
    count = {"step": 6, "epoch": 2}[interval]
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**count)
