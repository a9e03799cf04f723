"""Configs of the reference run unchanged.

Those that its package brings are read from there. Overridden are paths and the accelerator, and how
many batches of how many frames are taken, so that it is done in seconds.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

found = importlib.util.find_spec("nequip")
pytest.importorskip("nequip", reason="the parity session installs nequip==0.19.1")
pytest.importorskip("nequip_train", reason="the parity session installs nequip-train")
CONFIGS = Path(found.origin).parent / "utils" / "unittests"
COMMANDS = {
    "ours": "from nequip_train.command import main; raise SystemExit(main())",
    "reference": "from nequip.scripts.train import main; main()",
}
BOUNDED = [
    "++trainer.accelerator=cpu",
    *(f"++trainer.limit_{part}_batches=1" for part in ("train", "val", "test")),
    "++trainer.enable_progress_bar=false",
]


def train(who, folder, *options):
    """Run a command in a folder of its own and return the folder."""
    folder.mkdir(exist_ok=True)
    off = {"NEQUIP_STATISTICS_CACHE": "off", "NEQUIP_FRAME_CACHE": "off", "TEST_VAL_TWO": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMMANDS[who], *options, "hydra.run.dir=run"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **off, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return folder


def logged(folder):
    """Return what the default logger of Lightning wrote: name -> values in order."""
    (path,) = folder.glob("lightning_logs/*/metrics.csv")
    values = {}
    with path.open() as file:
        for line in csv.DictReader(file):
            for name, value in line.items():
                if value:
                    values.setdefault(name, []).append(float(value))
    return values


def write_aspirin(folder):
    """Write files of the published form: acetic acid, which has aspirin's elements."""
    generator, atoms = np.random.default_rng(0), molecule("CH3COOH")
    folder.mkdir(parents=True)
    for part, count in (("train", 40), ("test", 10)):
        shape = (count, len(atoms), 3)
        arrays = {
            "R": atoms.positions + generator.normal(scale=0.05, size=shape),
            "z": atoms.numbers.astype(np.uint8),
            "E": generator.normal(-143000.0, 5.0, size=(count, 1)),
            "F": generator.normal(scale=20.0, size=shape),
        }
        np.savez(folder / f"aspirin_ccsd-{part}.npz", **arrays)


def test_the_config_of_aspirin_gives_the_results_of_the_reference(tmp_path):
    write_aspirin(tmp_path / "aspirin")
    settings = ["dataloader.batch_size=2", f"data.data_source_dir={tmp_path / 'aspirin'}"]
    options = ["-cp", str(CONFIGS), "-cn", "minimal_aspirin", *BOUNDED, *settings]
    folders = {who: train(who, tmp_path / who, *options) for who in COMMANDS}
    ours, reference = (logged(folder) for folder in folders.values())
    compared = [key for key in reference if key.startswith(("val0_epoch/", "test0_epoch/"))]
    assert len(compared) >= 6
    for key in compared:
        # The same steps of float32 networks from the same seed.
        assert ours[key] == pytest.approx(reference[key], rel=1e-4), key
    assert len(ours["val0_epoch/weighted_sum"]) == 5  # every epoch that the config asks for
    for folder in folders.values():
        assert {"best.ckpt", "last.ckpt"} <= {path.name for path in (folder / "run").iterdir()}
    written = [read(folder / "run" / "test_dataset0.xyz", ":") for folder in folders.values()]
    assert len(written[0]) == len(written[1]) == 2
    for mine, theirs in zip(*written, strict=True):
        np.testing.assert_allclose(mine.get_forces(), theirs.get_forces(), rtol=1e-3, atol=1e-6)
        assert set(mine.info) == set(theirs.info)
        assert set(mine.arrays) == set(theirs.arrays)


def test_the_config_of_copper_learns(tmp_path):
    # Not compared: all frames of the reference's set have the positions of the last one.
    options = ["-cp", str(CONFIGS), "-cn", "minimal_toy_emt", *BOUNDED, "dataloader.batch_size=1"]
    folder = train("ours", tmp_path, *options)
    values = logged(folder)
    for name in ("forces_mae", "forces_rmse"):
        errors = values[f"val0_epoch/{name}"]
        assert len(errors) == 5
        assert errors == sorted(errors, reverse=True)
    assert values["loss_coeff/forces_mse"] == pytest.approx([1 / 3, 1 / 3, 1 / 2, 1 / 2, 1 / 4])
    assert {"best.ckpt", "last.ckpt"} <= {path.name for path in (folder / "run").iterdir()}
    (frame,) = read(folder / "run" / "test_dataset0.xyz", ":")
    assert frame.get_stress().shape == (6,)


# Every key of the tutorial's config, with its values. Its logger asks for an account elsewhere.
TUTORIAL = """
run: [train, test]
cutoff_radius: 5.0
num_layers: 4
l_max: 1
num_features: 32
model_type_names: [C, H, O, Cu]
chemical_species: ${model_type_names}
monitored_metric: val0_epoch/weighted_sum
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 456
  split_dataset: {file_path: fcu.xyz, train: 0.8, val: 0.1, test: 0.1}
  transforms:
    - _target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper
      model_type_names: ${model_type_names}
      chemical_species_to_atom_type_map: ${list_to_identity_dict:${chemical_species}}
    - {_target_: nequip.data.transforms.NeighborListTransform, r_max: "${cutoff_radius}"}
  train_dataloader:
    _target_: torch.utils.data.DataLoader
    batch_size: 5
    num_workers: 5
    shuffle: true
  val_dataloader:
    _target_: torch.utils.data.DataLoader
    batch_size: 10
    num_workers: ${data.train_dataloader.num_workers}
  test_dataloader: ${data.val_dataloader}
  stats_manager:
    _target_: nequip.data.CommonDataStatisticsManager
    dataloader_kwargs: {batch_size: 10}
    type_names: ${model_type_names}
trainer:
  _target_: lightning.Trainer
  accelerator: gpu
  enable_checkpointing: true
  max_epochs: 1000
  max_time: 03:00:00:00
  check_val_every_n_epoch: 1
  log_every_n_steps: 20
  callbacks:
    - _target_: lightning.pytorch.callbacks.EarlyStopping
      monitor: ${monitored_metric}
      min_delta: 1e-3
      patience: 20
    - _target_: lightning.pytorch.callbacks.ModelCheckpoint
      monitor: ${monitored_metric}
      dirpath: ${hydra:runtime.output_dir}
      filename: best
      save_last: true
    - _target_: lightning.pytorch.callbacks.LearningRateMonitor
      logging_interval: epoch
training_module:
  _target_: nequip.train.EMALightningModule
  ema_decay: 0.999
  loss:
    _target_: nequip.train.EnergyForceLoss
    per_atom_energy: true
    coeffs: {total_energy: 1.0, forces: 1.0}
  val_metrics:
    _target_: nequip.train.EnergyForceMetrics
    coeffs: {total_energy_mae: 1.0, forces_mae: 1.0}
  train_metrics: ${training_module.val_metrics}
  test_metrics: ${training_module.val_metrics}
  optimizer: {_target_: torch.optim.Adam, lr: 0.01}
  lr_scheduler:
    scheduler:
      _target_: torch.optim.lr_scheduler.ReduceLROnPlateau
      factor: 0.6
      patience: 5
      threshold: 0.2
      min_lr: 1e-6
    monitor: ${monitored_metric}
    interval: epoch
    frequency: 1
  model:
    _target_: nequip.model.NequIPGNNModel
    compile_mode: compile
    seed: 456
    model_dtype: float32
    type_names: ${model_type_names}
    r_max: ${cutoff_radius}
    num_bessels: 8
    bessel_trainable: false
    polynomial_cutoff_p: 6
    num_layers: ${num_layers}
    l_max: ${l_max}
    parity: true
    num_features: ${num_features}
    radial_mlp_depth: 2
    radial_mlp_width: 64
    avg_num_neighbors: ${training_data_stats:num_neighbors_mean}
    per_type_energy_scales: ${training_data_stats:per_type_forces_rms}
    per_type_energy_shifts: ${training_data_stats:per_atom_energy_mean}
    per_type_energy_scales_trainable: false
    per_type_energy_shifts_trainable: false
    pair_potential:
      _target_: nequip.nn.pair_potential.ZBL
      units: metal
      chemical_species: ${chemical_species}
global_options: {allow_tf32: false}
"""


def write_adsorbed(path, count):
    """Write formaldehyde over copper, the tutorial's four elements, with made-up labels."""
    generator, frames = np.random.default_rng(0), []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True).repeat((2, 2, 1))
        guest = molecule("H2CO")
        guest.positions += np.array([3.6, 3.6, 5.0]) - guest.positions.mean(0)
        atoms += guest
        atoms.cell[2, 2], atoms.pbc = 14.0, True
        atoms.rattle(0.05, rng=generator)
        labels = {"energy": generator.normal(), "forces": generator.normal(size=(len(atoms), 3))}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    write(path, frames)


@pytest.mark.parametrize("mode", ["eager", pytest.param("compile", marks=pytest.mark.slow)])
def test_the_config_of_the_tutorial_trains(tmp_path, mode):
    write_adsorbed(tmp_path / "fcu.xyz", 20)
    (tmp_path / "tutorial.yaml").write_text(TUTORIAL)
    small = ["trainer.max_epochs=2", "num_layers=2", "num_features=4"]
    small.append(f"training_module.model.compile_mode={mode}")
    options = ["-cp", str(tmp_path), "-cn", "tutorial", *BOUNDED, *small]
    values = logged(train("ours", tmp_path, *options))
    assert len(values["val0_epoch/weighted_sum"]) == 2
    assert math.isfinite(values["test0_epoch/weighted_sum"][0])
    assert {"best.ckpt", "last.ckpt"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
