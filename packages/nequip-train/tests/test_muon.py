"""Muon orthogonalises matrices; everything else is trained by Adam."""

from __future__ import annotations

import math

import pytest
import torch
from e3nn.o3 import Linear

from nequip_core.errors import ConfigError
from nequip_train.modules import NequIPLightningModule
from nequip_train.muon import MuonParamGroups, MuonWithAuxAdam, orthogonalized


def matrix(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 5), (4, 16), (16, 4)])
def test_the_update_has_the_singular_vectors_and_singular_values_of_about_one(shape):
    found = orthogonalized(matrix(*shape))
    u, _, v = torch.linalg.svd(matrix(*shape), full_matrices=False)
    inner = u.T @ found @ v.T
    values = inner.diagonal()
    assert values.min() > 0.6 and values.max() < 1.3
    # bfloat16 has eight bits
    torch.testing.assert_close(inner, torch.diag(values), rtol=0, atol=0.05)


def test_the_first_step_of_a_matrix_is_the_scaled_orthogonal_factor_of_its_gradient():
    parameter = torch.nn.Parameter(matrix(6, 2, 1))
    before, gradient = parameter.detach().clone(), matrix(6, 2, 2)
    optimizer = MuonWithAuxAdam(
        [{"params": [parameter], "use_muon": True, "lr": 0.1, "weight_decay": 0.5}]
    )
    parameter.grad = gradient.clone()
    optimizer.step()
    # Momentum (1 - m) g, looked ahead: still a multiple of g. sqrt(6 / 2) because it is tall.
    expected = before * (1 - 0.1 * 0.5) - 0.1 * math.sqrt(3) * orthogonalized(gradient)
    torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-2)
    torch.testing.assert_close(optimizer.state[parameter]["momentum_buffer"], 0.05 * gradient)


def test_a_flat_parameter_is_trained_block_by_block():
    blocks = [matrix(4, 6, 3), matrix(5, 2, 4)]
    gradients = [matrix(4, 6, 5), matrix(5, 2, 6)]
    whole = torch.nn.Parameter(torch.cat([block.flatten() for block in blocks]))
    single = [torch.nn.Parameter(block.clone()) for block in blocks]
    places = [((0, 24), (4, 6)), ((24, 34), (5, 2))]
    groups = [
        {"params": [whole], "use_muon": True, "e3nn_reshaping": {0: places}},
        {"params": single, "use_muon": True},
    ]
    optimizer = MuonWithAuxAdam(groups)
    for _ in range(3):
        whole.grad = torch.cat([gradient.flatten() for gradient in gradients])
        for parameter, gradient in zip(single, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    assert torch.equal(whole, torch.cat([parameter.flatten() for parameter in single]))


def test_the_other_groups_are_trained_as_by_adam_with_decoupled_decay():
    ours, theirs = (torch.nn.Parameter(matrix(3, 3, 7)) for _ in range(2))
    options = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.1}
    optimizers = [
        MuonWithAuxAdam([{"params": [ours], "use_muon": False, **options}]),
        torch.optim.AdamW([theirs], **options),
    ]
    for step in range(5):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = matrix(3, 3, 10 + step)
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({}, "use_muon"),
        ({"use_muon": True, "momemtum": 0.9}, "did you mean 'momentum'"),
        ({"use_muon": False, "momentum": 0.9}, "group of Adam has no key 'momentum'"),
    ],
)
def test_wrong_groups_are_refused(group, message):
    with pytest.raises(ConfigError, match=message):
        MuonWithAuxAdam([{"params": [torch.nn.Parameter(matrix(2, 2))], **group}])


def test_a_vector_cannot_be_trained_by_muon():
    with pytest.raises(ConfigError, match=r"shape \(4,\)"):
        MuonWithAuxAdam([{"params": [torch.nn.Parameter(torch.zeros(4))], "use_muon": True}])


def test_the_groups_hold_radial_networks_and_linear_maps_of_layers_and_all_the_rest(small):
    module = small.module(NequIPLightningModule)
    names = {id(parameter): name for name, parameter in module.model.named_parameters()}
    muon, adam = MuonParamGroups(module.model, {"lr": 0.02}, {"lr": 3e-3})
    chosen = [names[id(parameter)] for parameter in muon["params"]]
    rest = [names[id(parameter)] for parameter in adam["params"]]
    assert (muon["use_muon"], muon["lr"]) == (True, 0.02)
    assert (adam["use_muon"], adam["lr"]) == (False, 3e-3)
    assert all(".layer" in name for name in chosen)
    assert any(".radial." in name for name in chosen)
    assert any(".linear_in." in name for name in chosen)
    assert any(".linear_out." in name for name in chosen)
    assert any(".self_connection." in name for name in rest)
    assert any("readout" in name for name in rest)
    assert sorted(chosen + rest) == sorted(names.values())
    assert all(parameter.dim() == 2 for parameter in muon["params"])


def test_flat_weights_of_e3nn_are_split_into_their_matrices():
    model = torch.nn.ModuleDict()
    model["layer0"] = torch.nn.ModuleDict({"conv": torch.nn.Module()})
    model["layer0"]["conv"].linear_1 = Linear("4x0e + 2x1o", "3x0e + 5x1o")
    muon, adam = MuonParamGroups(model, {}, {})
    assert [parameter.numel() for parameter in muon["params"]] == [22]
    assert adam["params"] == []
    assert muon["e3nn_reshaping"] == {0: [((0, 12), (4, 3)), ((12, 22), (2, 5))]}
    optimizer = MuonWithAuxAdam([muon])
    muon["params"][0].grad = torch.ones(22)
    optimizer.step()
    assert torch.isfinite(muon["params"][0]).all()


def test_a_training_with_muon_reduces_the_loss_and_its_checkpoint_is_plain(small, tmp_path):
    groups = {
        "_target_": "nequip.model.MuonParamGroups",
        "muon": {"lr": 0.02},
        "adam": {"lr": 0.01},
    }
    optimizer = {"_target_": "nequip.train.MuonWithAuxAdam", "param_groups": groups}
    module = small.module(NequIPLightningModule, optimizer=optimizer)
    recorder = small.recorder()
    trainer = small.trainer(max_epochs=5, logger=recorder)
    trainer.fit(module, datamodule=small.data())
    losses = [value for _, value in recorder.of("train_loss_epoch/weighted_sum")]
    assert losses[-1] < losses[0]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    again = small.module(NequIPLightningModule, optimizer=optimizer)
    small.trainer(max_epochs=6).fit(
        again, datamodule=small.data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert content["optimizer_states"][0]["param_groups"][0]["use_muon"] is True
