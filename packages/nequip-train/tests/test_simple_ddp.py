"""Trainings on two processes give the weights and files of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import ase.io
import numpy as np
import pytest
import torch

# Executed here for one process, and by a process of its own for two.
SCRIPT = """
import lightning, torch
from nequip_train.callbacks.xyz_files import ValTimeXYZFileWriter
from nequip_train.conflict_free import ConFIGLightningModule
from nequip_train.data.datamodules import NequIPDataModule
from nequip_train.modules import NequIPLightningModule
from nequip_train.simple_ddp import SimpleDDPStrategy


def run(kind, strategy, devices, folder, arguments, transforms):
    def dataset(frames, seed):
        return {
            "_target_": "nequip.data.dataset.EMTTestDataset", "transforms": transforms,
            "supercell": (1, 1, 1), "num_frames": frames, "seed": seed,
        }

    arguments["num_datasets"] = {"train": 1, "val": 1, "test": 0, "predict": 0}
    data = NequIPDataModule(
        seed=1, train_dataset=dataset(8, 1), val_dataset=dataset(3, 2),
        train_dataloader={"batch_size": 4 // devices}, val_dataloader={"batch_size": 2 // devices},
    )
    module = {"plain": NequIPLightningModule, "config": ConFIGLightningModule}[kind](**arguments)
    strategies = {"simple": SimpleDDPStrategy, "ddp": lightning.pytorch.strategies.DDPStrategy}
    trainer = lightning.Trainer(
        accelerator="cpu", devices=devices, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        num_sanity_val_steps=0, use_distributed_sampler=False,
        strategy=strategies[strategy]() if devices > 1 else "auto",
        accumulate_grad_batches=2 if kind == "plain" else 1,
        callbacks=[ValTimeXYZFileWriter(out_file=folder + "/val")],
    )
    trainer.fit(module, datamodule=data)
    if trainer.is_global_zero:
        torch.save(module.model.state_dict(), folder + "/weights.pt")
"""
MAIN = """
if __name__ == "__main__":
    import json, sys
    run(sys.argv[1], sys.argv[2], 2, sys.argv[3], json.loads(sys.argv[4]), json.loads(sys.argv[5]))
"""


def prepared(small, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    arguments = {**small.arguments, "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}}
    del arguments["test_metrics"]
    return folder, arguments, small.dataset(1, 1)["transforms"]


def trained_by_one(small, tmp_path, kind):
    folder, arguments, transforms = prepared(small, tmp_path, "one")
    names = {}
    exec(SCRIPT, names)
    names["run"](kind, None, 1, str(folder), arguments, transforms)
    return folder


def trained_by_two(small, tmp_path, kind, strategy):
    folder, arguments, transforms = prepared(small, tmp_path, "two")
    script = folder / "script.py"
    script.write_text(SCRIPT + MAIN)
    texts = [json.dumps(arguments), json.dumps(transforms)]
    command = [sys.executable, str(script), kind, strategy, str(folder), *texts]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(("kind", "strategy"), [("plain", "simple"), ("config", "ddp")])
def test_two_processes_train_the_weights_of_one(small, tmp_path, kind, strategy):
    one = trained_by_one(small, tmp_path, kind)
    two = trained_by_two(small, tmp_path, kind, strategy)
    expected, found = (torch.load(folder / "weights.pt") for folder in (one, two))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)
    # Each frame once and in the order of the data, though one process has a frame more.
    one_by_one, joined = (ase.io.read(f / "val_dataset0.xyz", ":") for f in (one, two))
    assert len(joined) == len(one_by_one) == 6
    for a, b in zip(one_by_one, joined, strict=True):
        np.testing.assert_allclose(a.positions, b.positions)
        np.testing.assert_allclose(a.get_forces(), b.get_forces(), atol=1e-7)
    assert [path.name for path in two.glob(".*")] == []
