"""Losses, optimizers, samplers and callbacks of training give the reference's numbers."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import lightning
import pytest
import torch
from omegaconf import OmegaConf

from nequip_train.callbacks import loss_coefficients
from nequip_train.conflict_free import conflict_free_direction
from nequip_train.data.dataset_numbers import DATASETS, big_dataset_stats
from nequip_train.data.partial_sampler import PartialSampler
from nequip_train.losses import EnergyForceLoss
from nequip_train.muon import MuonWithAuxAdam
from nequip_train.stratified_huber import StratifiedHuberForceLoss

pytestmark = pytest.mark.filterwarnings("ignore")  # raised inside the reference

reference = pytest.importorskip("nequip.train", reason="the parity session installs nequip")
from nequip import data as reference_data  # noqa: E402
from nequip.data import datamodule as reference_datamodule  # noqa: E402
from nequip.train import callbacks as reference_callbacks  # noqa: E402
from nequip.utils.global_state import set_global_state  # noqa: E402

ENERGY, FORCES = "per_atom_energy_mse", "forces_mse"


@pytest.fixture(autouse=True)
def float64():
    """The reference computes in the default dtype, which it sets to float64 in its commands."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("strata", [{0: 0.01, 1: 0.1, 10: 0.005}, {0.5: 0.1, 2: 1.0}])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_stratified_huber_loss(strata, reduction):
    target = normal(9, 3) * torch.logspace(-2, 2, 9)[:, None]
    predicted = target + 0.3 * normal(9, 3, seed=1)
    ours, theirs = (
        kind(strata, reduction)(predicted, target)
        for kind in (StratifiedHuberForceLoss, reference.StratifiedHuberForceLoss)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_muon_and_its_adam():
    start = [normal(4, 6), normal(24, seed=1), normal(5, seed=2)]
    made = []
    for kind in (MuonWithAuxAdam, reference.MuonWithAuxAdam):
        parameters = [torch.nn.Parameter(value.clone()) for value in start]
        blocks = {1: [(slice(0, 24, None), (4, 6))]}
        optimizer = kind(
            [
                {"params": parameters[:2], "use_muon": True, "e3nn_reshaping": blocks, "lr": 0.1,
                 "weight_decay": 0.1},
                {"params": parameters[2:], "use_muon": False, "lr": 0.01, "weight_decay": 0.1},
            ]
        )  # fmt: skip
        for step in range(3):
            for place, parameter in enumerate(parameters):
                parameter.grad = normal(*parameter.shape, seed=10 * step + place)
            optimizer.step()
        made.append(parameters)
    for ours, theirs in zip(*made, strict=True):
        # Muon multiplies matrices in bfloat16, in whatever order the library likes best.
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)
    torch.testing.assert_close(made[0][2], made[1][2], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shuffle", [False, True])
def test_partial_sampler(shuffle):
    rows = []
    for kind in (PartialSampler, reference_data.PartialSampler):
        generator = torch.Generator().manual_seed(3)
        sampler = kind(range(10), shuffle, num_samples_per_epoch=4, generator=generator)
        row = []
        for epoch in range(7):
            sampler.step_epoch(epoch)
            row += [int(index) for index in sampler]
        rows.append(row)
    assert rows[0] == rows[1]


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("cutoff", [4.5, 6.0, 8.0])
def test_numbers_of_large_data_sets(name, cutoff):
    # The reference registers its resolver when it is imported.
    config = OmegaConf.create({"numbers": f"${{big_dataset_stats:{name},{cutoff}}}"})
    theirs = OmegaConf.to_container(config, resolve=True)["numbers"]
    assert {key: theirs[key] for key in theirs} == big_dataset_stats(name, cutoff)


def driven(callback, loss_kind):
    """The coefficients of nine epochs."""
    module = SimpleNamespace(loss=loss_kind(coeffs={"total_energy": 1.0, "forces": 3.0}))
    found = []
    for epoch in range(9):
        trainer = SimpleNamespace(current_epoch=epoch, global_step=epoch)
        callback.on_train_epoch_start(trainer, module)
        entries = module.loss.entries
        found.append([entries[ENERGY].coeff, entries[FORCES].coeff])
    return found


def test_linear_and_stepwise_schedules():
    final = {ENERGY: 4.0, FORCES: 1.0}
    for name, arguments in (
        ("LinearLossCoefficientScheduler", (final, 3, 1)),
        ("LossCoefficientScheduler", ({2: final, 5: {ENERGY: 1.0, FORCES: 1.0}},)),
    ):
        ours = driven(getattr(loss_coefficients, name)(*arguments), EnergyForceLoss)
        callback = getattr(reference_callbacks, name)(*arguments)
        theirs = driven(callback, reference.EnergyForceLoss)
        for mine, other in zip(ours, theirs, strict=True):
            assert mine == pytest.approx(other, rel=1e-12), name


MODEL = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 1,
    "model_dtype": "float64",
    "type_names": ["Cu"],
    "r_max": 3.5,
    "num_layers": 2,
    "num_features": 2,
    "radial_mlp_width": 4,
    "avg_num_neighbors": 12.0,
}
TRANSFORMS = [
    {
        "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
        "model_type_names": ["Cu"],
    },
    {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": 3.5},
]


def step_of(kind, coeffs, **arguments):
    """What the reference subtracts from its weights in the first step, at a learning rate of 1."""
    dataset = {
        "_target_": "nequip.data.dataset.EMTTestDataset",
        "transforms": TRANSFORMS,
        "supercell": [1, 1, 1],
        "num_frames": 2,
    }
    data = reference_datamodule.NequIPDataModule(
        seed=1, train_dataset=dataset, val_dataset=dataset, train_dataloader={"batch_size": 2}
    )
    module = kind(
        model=copy.deepcopy(MODEL),
        num_datasets={"train": 1, "val": 1, "test": 0, "predict": 0},
        loss={"_target_": "nequip.train.EnergyForceLoss", "coeffs": coeffs},
        val_metrics={"_target_": "nequip.train.EnergyForceMetrics"},
        optimizer={"_target_": "torch.optim.SGD", "lr": 1.0},
        **arguments,
    )
    before = [parameter.detach().clone() for parameter in module.model.parameters()]
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    pairs = zip(before, module.model.parameters(), strict=True)
    return torch.cat([(old - new.detach()).flatten() for old, new in pairs])


def test_the_conflict_free_direction_of_the_references_gradients():
    set_global_state()
    gradients = torch.stack(
        [
            step_of(reference.NequIPLightningModule, {"total_energy": 1.0, "forces": None}),
            step_of(reference.NequIPLightningModule, {"total_energy": None, "forces": 1.0}),
        ]
    )
    # By the pseudoinverse: the driver of its least squares is wrong now and then, see record 42.
    theirs = step_of(
        reference.ConFIGLightningModule, {"total_energy": 1.0, "forces": 3.0}, lsqr=False
    )
    for lsqr in (True, False):
        ours = conflict_free_direction(gradients, torch.tensor([0.25, 0.75]), lsqr)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9 * float(theirs.norm()))
