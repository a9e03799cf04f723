"""Losses of several processes."""

from __future__ import annotations

import subprocess
import sys

# Two processes share five atoms of two types; the second process has none of type A.
SCRIPT = """
import sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from nequip_train.losses import EnergyForceLoss

ATOMS = [([0, 0, 1], [3]), ([1, 1], [2])]


def part(rank):
    types, counts = ATOMS[rank]
    generator = torch.Generator().manual_seed(rank)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    return {
        "total_energy": normal(len(counts), 1),
        "forces": normal(len(types), 3),
        "atom_types": torch.tensor(types),
        "num_atoms": torch.tensor(counts),
    }


def loss_and_gradient(data, world_size):
    loss = EnergyForceLoss(per_type_forces_coeffs={"A": 1.0, "B": 2.0}, type_names=["A", "B"])
    for metric in loss.all_metrics():
        metric.dist_sync_on_step = world_size > 1
    weight = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    scaled = {key: weight * data[key] for key in ("total_energy", "forces")}
    value = loss({**data, **scaled}, data)["weighted_sum"]
    (world_size * value).backward()
    return torch.stack([value.detach(), weight.grad, loss.compute()["weighted_sum"]])


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    result = loss_and_gradient(part(rank), 2)
    gradient = result[1].clone()
    dist.all_reduce(gradient)
    result[1] = gradient / 2
    whole = {key: torch.cat([part(0)[key], part(1)[key]]) for key in part(0)}
    torch.testing.assert_close(result, loss_and_gradient(whole, 1), rtol=1e-14, atol=0.0)
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, args=(sys.argv[1],), nprocs=2)
"""


def test_two_processes_have_the_loss_and_the_gradient_of_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
