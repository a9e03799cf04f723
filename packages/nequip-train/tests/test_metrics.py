"""Error metrics, their manager, and the losses made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nequip_core.errors import ConfigError, DataError
from nequip_train.data.modifiers import PerAtomModifier
from nequip_train.losses import (
    EnergyForceLoss,
    EnergyForceMetrics,
    EnergyForceStressLoss,
    EnergyForceStressMetrics,
    EnergyOnlyLoss,
    EnergyOnlyMetrics,
)
from nequip_train.metrics import (
    HuberLoss,
    MaximumAbsoluteError,
    MeanAbsoluteError,
    MeanSquaredError,
    RootMeanSquaredError,
)
from nequip_train.metrics_manager import MetricsManager

TYPES = ["A", "B"]


def batch(seed, types=(0, 0, 1, 1, 1), atoms=(2, 3)):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n, f = len(types), len(atoms)
    return {
        "total_energy": normal(f, 1),
        "forces": normal(n, 3),
        "stress": normal(f, 3, 3),
        "atom_types": torch.tensor(types),
        "num_atoms": torch.tensor(atoms),
    }


@pytest.mark.parametrize(
    ("metric", "function", "name"),
    [
        (MeanAbsoluteError(), lambda e: np.mean(np.abs(e)), "mae"),
        (MeanSquaredError(), lambda e: np.mean(e**2), "mse"),
        (RootMeanSquaredError(), lambda e: np.sqrt(np.mean(e**2)), "rmse"),
        (MaximumAbsoluteError(), lambda e: np.max(np.abs(e)), "max_ae"),
        (
            HuberLoss(delta=0.5),
            lambda e: np.mean(np.where(np.abs(e) < 0.5, e**2 / 2, 0.5 * (np.abs(e) - 0.25))),
            "huber",
        ),
        (
            HuberLoss(reduction="sum"),
            lambda e: np.sum(np.where(np.abs(e) < 1, e**2 / 2, np.abs(e) - 0.5)),
            "huber",
        ),
    ],
)
def test_a_metric_equals_numpy_over_batches_and_is_differentiable(metric, function, name):
    preds, target = batch(1)["forces"].requires_grad_(), batch(2)["forces"]
    step = metric(preds[:1], target[:1])
    assert step.item() == pytest.approx(function((preds - target)[:1].detach().numpy()))
    step.backward()
    assert preds.grad[0].abs().sum() > 0
    metric(preds[1:], target[1:])
    expected = function((preds - target).detach().numpy())
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-12)
    assert not metric.compute().requires_grad
    assert str(metric) == name


def test_single_precision_predictions_are_averaged_in_double_precision():
    metric = MeanAbsoluteError()
    metric.update(torch.full((3,), 1e-9, dtype=torch.float32), torch.zeros(3))
    assert metric.compute().dtype == torch.float64


def test_names_coefficients_and_the_weighted_sum():
    manager = MetricsManager(
        [
            {"field": "forces", "metric": MeanSquaredError(), "coeff": 3.0},
            {"field": PerAtomModifier("total_energy"), "metric": MeanAbsoluteError(), "coeff": 1},
            {"field": "stress", "metric": MaximumAbsoluteError()},
        ]
    )
    preds, target = batch(1), batch(2)
    values = manager(preds, target, prefix="x/", suffix="_s")
    assert list(values) == [
        "x/F_mse_s",
        "x/per_atom_E_mae_s",
        "x/stress_max_ae_s",
        "x/weighted_sum_s",
    ]
    force = (preds["forces"] - target["forces"]).square().mean()
    energy = ((preds["total_energy"] - target["total_energy"]).view(-1) / target["num_atoms"]).abs()
    expected = 0.75 * force + 0.25 * energy.mean()
    torch.testing.assert_close(values["x/weighted_sum_s"], expected)
    assert {name: entry.coeff for name, entry in manager.entries.items()} == {
        "F_mse": 0.75,
        "per_atom_E_mae": 0.25,
        "stress_max_ae": None,
    }
    assert manager.metrics_values_step["F_mse"] == float(force)
    assert list(manager.state_dict()) == ["_extra_state"]
    assert manager.value_names() == ["weighted_sum", *manager.entries]


def test_an_epoch_is_all_its_batches_until_a_reset():
    manager = EnergyForceMetrics()
    for seed in (1, 3):
        manager(batch(seed), batch(seed + 1))
    errors = [batch(seed)["forces"] - batch(seed + 1)["forces"] for seed in (1, 3)]
    expected = torch.cat(errors).square().mean().sqrt()
    torch.testing.assert_close(manager.compute()["forces_rmse"], expected)
    manager.reset()
    assert math.isnan(manager.compute()["forces_rmse"])


def test_values_by_type_are_averaged_over_the_types_that_are_there():
    weights = {"A": 1.0, "B": 3.0}
    manager = MetricsManager(
        [
            {"field": "forces", "metric": MaximumAbsoluteError(), "per_type": True, "coeff": 1.0},
            {
                "field": "forces",
                "metric": MeanAbsoluteError(),
                "per_type": True,
                "per_type_coeffs": weights,
                "name": "weighted",
            },
        ],
        type_names=TYPES,
    )
    preds, target = batch(1), batch(2)
    error = (preds["forces"] - target["forces"]).abs()
    values = manager(preds, target)
    torch.testing.assert_close(values["F_max_ae_A"], error[:2].max())
    torch.testing.assert_close(values["F_max_ae"], (error[:2].max() + error[2:].max()) / 2)
    expected = (error[:2].mean() + 3 * error[2:].mean()) / 4
    torch.testing.assert_close(values["weighted"], expected)
    only_b = manager(batch(1, types=(1, 1), atoms=(1, 1)), batch(2, types=(1, 1), atoms=(1, 1)))
    assert torch.isnan(only_b["F_max_ae_A"])
    assert torch.equal(only_b["F_max_ae"], only_b["F_max_ae_B"])
    assert torch.equal(only_b["weighted_sum"], only_b["F_max_ae_B"])
    assert torch.isfinite(manager.compute()["F_max_ae_A"])


def test_a_batch_without_a_single_label_adds_nothing_to_the_loss():
    loss = EnergyForceStressLoss(ignore_nan={"stress": True})
    preds, target = batch(1), batch(2)
    target["stress"][:] = torch.nan
    values = loss(preds, target)
    expected = (values["per_atom_energy_mse"] + values["forces_mse"]) / 3
    torch.testing.assert_close(values["weighted_sum"], expected)
    assert torch.isnan(values["stress_mse"])
    torch.testing.assert_close(loss.compute()["weighted_sum"], expected)
    target["stress"][0] = 0.0
    values = loss(preds, target)
    torch.testing.assert_close(values["stress_mse"], preds["stress"][0].square().mean())
    torch.testing.assert_close(loss.compute()["stress_mse"], preds["stress"][0].square().mean())


def test_all_types_without_labels_add_nothing_to_the_loss():
    loss = MetricsManager(
        [
            {
                "field": "forces",
                "metric": MeanSquaredError(),
                "per_type": True,
                "ignore_nan": True,
                "coeff": 1.0,
            }
        ],
        type_names=TYPES,
    )
    target = batch(2)
    target["forces"][:] = torch.nan
    assert float(loss(batch(1), target)["weighted_sum"]) == 0.0


def test_a_diverged_prediction_stays_nan_in_the_loss():
    loss = EnergyForceStressLoss(ignore_nan={"stress": True})
    preds = batch(1)
    preds["stress"][:] = torch.nan
    assert torch.isnan(loss(preds, batch(2))["weighted_sum"])


def test_nan_labels_are_refused_unless_they_stand_for_missing_ones():
    target = batch(2)
    target["stress"][0] = torch.nan
    with pytest.raises(DataError, match="'stress_mse' met NaN labels; set 'ignore_nan: true'"):
        EnergyForceStressLoss()(batch(1), target)


def test_a_missing_label_and_a_wrong_shape_are_named():
    target = batch(2)
    del target["forces"]
    with pytest.raises(DataError, match="the data for 'forces_mse' has no 'forces'"):
        EnergyForceLoss()(batch(1), target)
    with pytest.raises(DataError, match=r"shape \(5, 3\) with labels of shape \(4, 3\)"):
        EnergyForceLoss()(batch(1), {**batch(2), "forces": batch(2)["forces"][:4]})


def test_a_metric_without_field_gets_everything():

    import torchmetrics

    class Sum(torchmetrics.Metric):
        full_state_update = False

        def __init__(self):
            super().__init__()
            self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

        def update(self, preds, target):
            self.total = self.total + preds["forces"].sum() + target["forces"].sum()

        def compute(self):
            return self.total

    manager = MetricsManager([{"metric": Sum(), "name": "whole", "coeff": 1.0}])
    values = manager(batch(1), batch(2))
    expected = batch(1)["forces"].sum() + batch(2)["forces"].sum()
    torch.testing.assert_close(values["weighted_sum"], expected, check_dtype=False)


def test_coefficients_can_be_changed_but_not_misspelt():
    loss = EnergyForceLoss()
    loss.set_coeffs({"forces_mse": 2.0, "per_atom_energy_mse": 6.0})
    assert loss.entries["forces_mse"].coeff == 0.25
    with pytest.raises(ConfigError, match="did you mean 'forces_mse'"):
        loss.set_coeffs({"force_mse": 1.0})
    with pytest.raises(ConfigError, match="sum zero"):
        loss.set_coeffs({"forces_mse": 0.0})
    assert loss.do_weighted_sum
    loss.set_coeffs({"forces_mse": 5.0})
    assert loss.entries["per_atom_energy_mse"].coeff is None
    assert loss.entries["forces_mse"].coeff == 1.0


def test_the_state_of_a_manager_travels():
    first, second = EnergyForceLoss(), EnergyForceLoss()
    first.set_coeffs({"forces_mse": 2.0, "per_atom_energy_mse": 6.0})
    first(batch(1), batch(2))
    second.load_state_dict(first.state_dict())
    assert second.entries["forces_mse"].coeff == 0.25
    assert second.metrics_values_step == first.metrics_values_step


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"field": "forces", "metric": MeanSquaredError(), "coef": 1}, "did you mean 'coeff'"),
        ({"field": "forces"}, "needs the key 'metric'"),
        ({"field": "force", "metric": MeanSquaredError()}, "not a registered field"),
        ({"metric": MeanSquaredError(), "per_type": True}, "has no field"),
        (
            {"field": "stress", "metric": MeanSquaredError(), "per_type": True},
            "only those of node fields",
        ),
        (
            {"field": "forces", "metric": MeanSquaredError(), "per_type_coeffs": {"A": 1}},
            "needs 'per_type: true'",
        ),
        (
            {
                "field": "forces",
                "metric": MeanSquaredError(),
                "per_type": True,
                "per_type_coeffs": {"A": 1},
            },
            "must have the keys",
        ),
        ({"field": "forces", "metric": MeanSquaredError(), "name": "weighted_sum"}, "is taken"),
        ({"field": "forces", "metric": MeanSquaredError(), "coeff": -1}, "must be >= 0"),
    ],
)
def test_a_wrong_entry_is_refused(entry, message):
    with pytest.raises(ConfigError, match=message):
        MetricsManager([entry], type_names=TYPES)


def test_documented_losses_and_reports_have_their_terms():
    assert list(EnergyOnlyLoss()) == ["per_atom_energy_mse"]
    assert list(EnergyForceLoss(per_atom_energy=False)) == ["total_energy_mse", "forces_mse"]
    assert list(EnergyForceStressLoss()) == ["per_atom_energy_mse", "forces_mse", "stress_mse"]
    assert len(EnergyOnlyMetrics()) == 6
    assert len(EnergyForceMetrics()) == 9
    report = EnergyForceStressMetrics()
    assert len(report) == 12
    shares = {name: entry.coeff for name, entry in report.entries.items() if entry.coeff}
    assert shares == dict.fromkeys(["total_energy_rmse", "forces_rmse", "stress_rmse"], 1 / 3)


def test_losses_take_weights_by_type_and_further_terms():
    loss = EnergyForceLoss(
        per_type_forces_coeffs={"A": 1.0, "B": 2.0},
        type_names=TYPES,
        extra_metrics=[{"field": "stress", "metric": MeanAbsoluteError()}],
    )
    values = loss(batch(1), batch(2))
    error = (batch(1)["forces"] - batch(2)["forces"]).square()
    expected = (error[:2].mean() + 2 * error[2:].mean()) / 3
    torch.testing.assert_close(values["forces_mse"], expected)
    assert "stress_mae" in values


@pytest.mark.parametrize(
    ("builder", "arguments", "message"),
    [
        (EnergyForceLoss, {"coeffs": {"total_energy": 1.0}}, "coeffs lacks 'forces'"),
        (EnergyForceLoss, {"coeffs": {"total_energy": 1, "force": 1}}, "did you mean 'forces'"),
        (EnergyForceStressLoss, {"ignore_nan": {"stres": True}}, "did you mean 'stress'"),
        (EnergyForceMetrics, {"coeffs": {"stress_mae": 1}}, "no key 'stress_mae'"),
    ],
)
def test_wrong_arguments_of_losses_are_refused(builder, arguments, message):
    with pytest.raises(ConfigError, match=message):
        builder(**arguments)


def test_stress_labels_of_frames_without_volume_are_refused_unless_nan() -> None:
    entry = {"metric": MeanSquaredError(), "field": "stress", "ignore_nan": True}
    manager = MetricsManager([entry])
    cell = torch.stack([torch.eye(3), torch.zeros(3, 3)]).double()
    stress = torch.ones(2, 3, 3, dtype=torch.float64)
    with pytest.raises(DataError, match=r"cell has no volume, frames \[1\] of the batch"):
        manager({"stress": stress}, {"stress": stress, "cell": cell})
    labels = stress.clone()
    labels[1] = torch.nan
    assert float(manager({"stress": stress}, {"stress": labels, "cell": cell})["stress_mse"]) == 0.0
