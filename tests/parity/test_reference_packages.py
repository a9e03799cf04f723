"""Packages that nequip 0.19.1 itself writes are read, and predict the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nequip_core.archive.loading import load_example_data, load_package
from nequip_core.archive.reader import PackageReader
from nequip_model.reference_import import import_reference

pytestmark = pytest.mark.filterwarnings("ignore")  # raised by the reference's packaged code

CONFIG = """
run: [train]
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 1
  split_dataset: {{file_path: {folder}/data.xyz, train: 0.5, val: 0.25, test: 0.25}}
  transforms:
    - _target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper
      model_type_names: [Cu, Au]
    - {{_target_: nequip.data.transforms.NeighborListTransform, r_max: 4.0}}
  train_dataloader: {{_target_: torch.utils.data.DataLoader, batch_size: 5}}
  val_dataloader: {{_target_: torch.utils.data.DataLoader, batch_size: 5}}
trainer:
  _target_: lightning.Trainer
  accelerator: cpu
  max_epochs: 1
  enable_progress_bar: false
  logger: false
  callbacks:
    - {{_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: {folder}, filename: best}}
training_module:
  _target_: nequip.train.EMALightningModule
  loss: {{_target_: nequip.train.EnergyForceLoss, coeffs: {{total_energy: 1.0, forces: 1.0}}}}
  val_metrics:
    _target_: nequip.train.EnergyForceMetrics
    coeffs: {{total_energy_mae: 1.0, forces_mae: 1.0}}
  optimizer: {{_target_: torch.optim.Adam, lr: 0.01}}
  model:
    _target_: nequip.model.NequIPGNNModel
    seed: 1
    model_dtype: float64
    type_names: [Cu, Au]
    r_max: 4.0
    l_max: 1
    num_layers: 2
    num_features: 4
    avg_num_neighbors: 12.0
"""
PREDICT = """
import sys
import numpy as np
import torch
from nequip.model.saved_models.package import ModelFromPackage

model = ModelFromPackage(sys.argv[1])["sole_model"]
data = torch.package.PackageImporter(sys.argv[1]).load_pickle("model", "example_data.pkl")
out = model(data)
fields = ("total_energy", "atomic_energy", "forces", "stress", "virial")
np.savez(sys.argv[2], **{key: out[key].detach().numpy() for key in fields})
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that the reference trained and packaged, in its own process."""
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.io import write

    folder = tmp_path_factory.mktemp("reference")
    frames = []
    for seed in range(8):
        atoms = bulk("Cu", cubic=True)
        atoms.set_chemical_symbols(["Cu", "Au", "Cu", "Au"])
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    write(folder / "data.xyz", frames)
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder))
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in (
        [scripts / "nequip-train", "-cp", folder, "-cn", "config"],
        [scripts / "nequip-package", "build", folder / "best.ckpt", folder / "a.nequip.zip"],
    ):
        subprocess.run([str(word) for word in command], cwd=folder, env=environment, check=True)
    return folder / "a.nequip.zip"


def test_reference_package_is_read_as_data(package: Path) -> None:
    reader = PackageReader(package)
    assert reader.format_version == 2
    assert reader.metadata["atom_types"] == {0: "Cu", 1: "Au"}
    assert reader.metadata["versions"]["nequip"] == "0.19.1"
    assert "NequIPGNNModel" in reader.config_text


def test_reference_package_predicts_what_the_reference_predicts(
    package: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PREDICT, str(package), str(tmp_path / "a.npz")]
    subprocess.run(command, check=True, cwd=tmp_path)
    model = load_package(package, trust_code=True).models["sole_model"]
    found = model(load_example_data(package, trust_code=True))
    with np.load(tmp_path / "a.npz") as expected:
        for key in expected:
            torch.testing.assert_close(
                found[key].detach(), torch.as_tensor(expected[key]), rtol=0, atol=1e-12
            )


@pytest.mark.parametrize("name", ["best.ckpt", "a.nequip.zip"])
def test_reference_files_are_imported_and_predict_the_same(
    package: Path, tmp_path: Path, name: str
) -> None:
    command = [sys.executable, "-c", PREDICT, str(package), str(tmp_path / "a.npz")]
    subprocess.run(command, check=True, cwd=tmp_path)
    with np.load(tmp_path / "a.npz") as arrays:
        outputs = {key: torch.as_tensor(arrays[key]) for key in arrays}
    frame = load_example_data(package, trust_code=True)
    import_reference(package.parent / name, [(frame, outputs)], tolerance=1e-12)
