"""Systems and models for the benchmarks; the reference joins where it is installed."""

import importlib.metadata
import subprocess
import sys
import warnings

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from nequip_core.ase_conversion import from_ase
from nequip_core.frames import batched_from_list
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.transforms import ChemicalSpeciesToAtomTypeMapper
from nequip_model.checkpoint import CHECKPOINT_VERSION, VERSION_KEY
from nequip_model.gnn import NequIPGNNModel
from nequip_model.modify import modify
from nequip_model.reference_import import import_reference

R_MAX = 5.0
SYSTEMS = {
    "Cu 24": (2, 3, 1),
    "Cu 108": (3, 3, 3),
    "Cu 256": (4, 4, 4),
    "Cu 864": (6, 6, 6),
    "Cu 2048": (8, 8, 8),
}
ARCHITECTURE = {
    "seed": 1,
    "model_dtype": "float32",
    "r_max": R_MAX,
    "num_layers": 4,
    "l_max": 2,
    "num_features": 32,
    "radial_mlp_depth": 2,
    "radial_mlp_width": 64,
    "avg_num_neighbors": 30.0,
}
CONFIG = """
run: [train]
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 1
  split_dataset: {{file_path: {folder}/data.xyz, train: 0.5, val: 0.25, test: 0.25}}
  transforms:
    - _target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper
      model_type_names: [Cu]
    - {{_target_: nequip.data.transforms.NeighborListTransform, r_max: 5.0}}
  train_dataloader: {{_target_: torch.utils.data.DataLoader, batch_size: 2}}
  val_dataloader: {{_target_: torch.utils.data.DataLoader, batch_size: 2}}
trainer:
  _target_: lightning.Trainer
  accelerator: cpu
  max_epochs: 1
  enable_progress_bar: false
  logger: false
  callbacks:
    - {{_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: {folder}, filename: theirs}}
training_module:
  _target_: nequip.train.NequIPLightningModule
  loss: {{_target_: nequip.train.EnergyForceLoss, coeffs: {{total_energy: 1.0, forces: 1.0}}}}
  val_metrics:
    _target_: nequip.train.EnergyForceMetrics
    coeffs: {{total_energy_mae: 1.0, forces_mae: 1.0}}
  optimizer: {{_target_: torch.optim.Adam, lr: 0.01}}
  model:
    _target_: nequip.model.NequIPGNNModel
    seed: 1
    model_dtype: float32
    type_names: [Cu]
    r_max: 5.0
    num_layers: 4
    l_max: 2
    num_features: 32
    radial_mlp_depth: 2
    radial_mlp_width: 64
    avg_num_neighbors: 30.0
"""


def _ours(**arguments):
    return NequIPGNNModel(**arguments)


def _with_kernels(**arguments):
    return modify(NequIPGNNModel(**arguments), [{"modifier": "enable_NequIPKernels"}])


def _with_tables(**arguments):
    modifiers = [{"modifier": "enable_RadialTable"}, {"modifier": "enable_NequIPKernels"}]
    return modify(NequIPGNNModel(**arguments), modifiers)


def _reference(**arguments):
    pytest.importorskip("nequip", reason="the bench session installs nequip==0.19.1")
    version = importlib.metadata.version("nequip")
    if version != "0.19.1":  # the facade of this repository has the same name
        pytest.skip(f"the reference is nequip 0.19.1, here is nequip {version}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nequip.model import NequIPGNNModel as Reference
        from nequip.utils.global_state import set_global_state

        before = torch.get_default_dtype()
        set_global_state()
        model = Reference(**arguments)
        torch.set_default_dtype(before)
    return model


MAKERS = {
    "ours": _ours,
    "ours with kernels": _with_kernels,
    "ours with kernels and tables": _with_tables,
    "nequip 0.19.1": _reference,
}


@pytest.fixture(params=MAKERS)
def build(request):
    """Model of the benchmark's architecture: ``build(type_names)``."""
    make = MAKERS[request.param]

    def with_types(type_names):
        return make(**ARCHITECTURE, type_names=type_names)

    return with_types


def prepared(structures, type_names):
    mapper = ChemicalSpeciesToAtomTypeMapper(type_names)
    frames = [compute_neighborlist_(mapper(from_ase(atoms)), R_MAX) for atoms in structures]
    batch = batched_from_list(frames)
    return {k: v for k, v in batch.items() if k not in ("pbc", "atomic_numbers")}


@pytest.fixture
def crystal():
    """Rattled fcc copper: ``crystal("Cu 108")``."""

    def make(name):
        atoms = bulk("Cu", cubic=True).repeat(SYSTEMS[name])
        atoms.rattle(0.1, seed=0)
        return prepared([atoms], ["Cu"])

    return make


@pytest.fixture
def molecules():
    """A batch of five rattled molecules of C, H and O."""
    structures = []
    for seed in range(5):
        atoms = molecule("CH3COOH")
        atoms.rattle(0.05, seed=seed)
        atoms.cell = np.zeros((3, 3))
        structures.append(atoms)
    return prepared(structures, ["C", "H", "O"])


def _train(folder):
    options = ("-cp", str(folder), "-cn", "config", f"hydra.run.dir={folder}")
    command = (sys.executable, "-W", "ignore", "-m", "nequip.scripts.train", *options)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A checkpoint that the reference trained, and one of ours with the same weights."""
    pytest.importorskip(
        "nequip.scripts.package", reason="the bench session installs nequip==0.19.1"
    )
    folder = tmp_path_factory.mktemp("checkpoints")
    frames, rng = [], np.random.default_rng(0)
    for seed in range(8):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        forces = rng.normal(size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=forces)
        frames.append(atoms)
    ase.io.write(folder / "data.xyz", frames)
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder))
    _train(folder)
    theirs = folder / "theirs.ckpt"
    saved = import_reference(theirs)
    content = {
        VERSION_KEY: CHECKPOINT_VERSION,
        "hyper_parameters": {
            "model": saved.config["training_module"]["model"],
            "info_dict": {**saved.config, "versions": saved.versions},
        },
        "state_dict": {f"model.{key}": value for key, value in saved.models.state_dict().items()},
    }
    torch.save(content, folder / "ours.ckpt")
    return {"ours": folder / "ours.ckpt", "nequip 0.19.1": theirs}
