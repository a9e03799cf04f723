"""Training modules without the command."""

from __future__ import annotations

import pytest
import torch

from nequip_core.errors import ConfigError, UnknownSpeciesError
from nequip_core.frames import batched_from_list
from nequip_core.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip_train.data.datasets import EMTTestDataset
from nequip_train.modules import EMALightningModule, NequIPLightningModule

MODEL = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 1,
    "model_dtype": "float32",
    "type_names": ["Al"],
    "r_max": 3.0,
    "num_layers": 1,
    "num_features": 2,
    "radial_mlp_width": 4,
    "avg_num_neighbors": 12.0,
}
LOSS = {"_target_": "nequip.train.EnergyForceStressLoss", "ignore_nan": {"stress": True}}
COUNTS = {"train": 1, "val": 1, "test": 2}


def module(kind=NequIPLightningModule, **arguments):
    return kind(**{"model": MODEL, "num_datasets": COUNTS, "loss": LOSS, **arguments})


@pytest.fixture
def batch():
    transforms = [ChemicalSpeciesToAtomTypeMapper(["Al"]), NeighborListTransform(3.0)]
    dataset = EMTTestDataset(transforms, supercell=(1, 1, 1), num_frames=2, element="Al")
    return batched_from_list(dataset[:])


def test_evaluation_returns_metrics_and_the_detached_output(batch):
    built = module(EMALightningModule, test_metrics={"_target_": "nequip.train.EnergyForceMetrics"})
    with torch.no_grad():
        values = built.test_step(batch, 0, dataloader_idx=1)
    output = values["test_1_output"]
    assert output["forces"].shape == batch["forces"].shape
    assert not output["total_energy"].requires_grad
    assert "test1_step/forces_rmse" in values
    assert values.keys() >= {"test1_step/weighted_sum"}
    assert len(built.test_metrics) == 2


def test_the_loss_gives_every_weight_that_matters_a_gradient(batch):
    built = module()
    built.log_dict = built.log = lambda *args, **kwargs: None
    loss = built.training_step(batch, 0)
    loss.backward()
    assert loss.dtype == torch.float64
    gradients = [p.grad.abs().sum() for p in built.model.parameters() if p.grad is not None]
    assert sum(gradient > 0 for gradient in gradients) > 3


def test_a_batch_without_labels_has_a_loss_of_zero_that_can_be_differentiated(batch):
    only_stress = {
        "_target_": "nequip.train.MetricsManager",
        "metrics": [
            {
                "field": "stress",
                "metric": {"_target_": "nequip.train.MeanSquaredError"},
                "ignore_nan": True,
                "coeff": 1.0,
            }
        ],
    }
    built = module(loss=only_stress)
    built.log_dict = built.log = lambda *args, **kwargs: None
    batch["stress"][:] = torch.nan
    loss = built.training_step(batch, 0)
    loss.backward()
    assert loss.item() == 0.0
    assert all(torch.isfinite(p.grad).all() for p in built.parameters() if p.grad is not None)


def test_optimizer_and_schedulers_are_built_nested_ones_too():
    built = module(
        optimizer={"_target_": "torch.optim.SGD", "lr": 0.1},
        lr_scheduler={
            "interval": "step",
            "scheduler": {
                "_target_": "torch.optim.lr_scheduler.SequentialLR",
                "milestones": [2],
                "schedulers": [
                    {"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 0.5},
                    {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.9},
                ],
            },
        },
    )
    configured = built.configure_optimizers()
    assert configured["lr_scheduler"]["interval"] == "step"
    scheduler = configured["lr_scheduler"]["scheduler"]
    assert len(scheduler._schedulers) == 2
    assert configured["optimizer"].param_groups[0]["lr"] == pytest.approx(0.05)


def groups_of(model, decay):
    parameters = list(model.parameters())
    return [{"params": parameters[:1], "weight_decay": decay}, {"params": parameters[1:]}]


def test_parameter_groups_come_from_a_function_of_the_model(monkeypatch):
    import math

    monkeypatch.setattr(math, "groups_of", groups_of, raising=False)
    groups = {"_target_": "math.groups_of", "decay": 0.1}
    built = module(optimizer={"_target_": "torch.optim.Adam", "lr": 1e-3, "param_groups": groups})
    optimizer = built.configure_optimizers()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": {**MODEL, "l_max": -1}}, "training_module.model: l_max"),
        ({"model": {"_target_": "torch.nn.Tanh"}}, "must build a graph model"),
        ({"loss": {"_target_": "torch.nn.Tanh"}}, "training_module.loss"),
        ({"loss": {"_target_": "nequip.train.MetricsManager", "metrics": []}}, "no term has a coe"),
    ],
)
def test_wrong_configs_are_refused_with_their_key_path(arguments, message):
    with pytest.raises(ConfigError, match=message):
        module(**arguments)


def test_construction_leaves_the_process_as_it_was():
    state, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    module(EMALightningModule)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype


def test_an_unknown_species_names_the_frame():
    dataset = EMTTestDataset([ChemicalSpeciesToAtomTypeMapper(["Cu"])], (1, 1, 1), element="Al")
    with pytest.raises(UnknownSpeciesError, match="frame 0 of EMTTestDataset: species Al"):
        dataset[0]
