"""Packaging against the reference in one run, on the same network with the same weights.

Commands are measured whole, as a user runs them: start of Python, imports, work.
"""

import subprocess
import sys
import warnings

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from nequip_core.archive.loading import load_package
from nequip_model.checkpoint import CHECKPOINT_VERSION, VERSION_KEY
from nequip_model.reference_import import import_reference

pytestmark = pytest.mark.filterwarnings("ignore")  # raised inside the reference

BOTH = pytest.mark.parametrize("who", ["ours", "nequip 0.19.1"])
# Both distributions install a command of this name.
COMMANDS = {
    "ours": "from nequip_package.command import main",
    "nequip 0.19.1": "from nequip.scripts.package import main",
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


def run(*command, **options):
    """Run a command to its end; what it prints matters only if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr


def packager(who, *arguments):
    """Run the command ``nequip-package`` of one of the two."""
    program = f"import sys; {COMMANDS[who]}; sys.exit(main(sys.argv[1:]))"
    run(sys.executable, "-W", "ignore", "-c", program, *map(str, arguments))


@pytest.fixture(scope="module")
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
    options = ("-cp", str(folder), "-cn", "config", f"hydra.run.dir={folder}")
    run(sys.executable, "-W", "ignore", "-m", "nequip.scripts.train", *options, cwd=folder)
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


@pytest.fixture(scope="module")
def packages(checkpoints, tmp_path_factory):
    """One package of each."""
    folder = tmp_path_factory.mktemp("packages")
    made = {who: folder / f"{path.stem}.nequip.zip" for who, path in checkpoints.items()}
    for who, path in made.items():
        packager(who, "build", checkpoints[who], path)
    return made


@BOTH
def test_build(benchmark, checkpoints, tmp_path, who):
    benchmark.group = "nequip-package build"
    output = tmp_path / "model.nequip.zip"

    def build():
        output.unlink(missing_ok=True)
        packager(who, "build", checkpoints[who], output)

    benchmark.pedantic(build, rounds=3)
    benchmark.extra_info["bytes"] = output.stat().st_size


@BOTH
def test_info(benchmark, packages, who):
    benchmark.group = "nequip-package info"
    benchmark.pedantic(lambda: packager(who, "info", packages[who]), warmup_rounds=1, rounds=5)


def load_ours(path):
    return load_package(path, load="snapshot", trust_code=True).models


def load_theirs(path):
    from nequip.model import ModelFromPackage
    from nequip.utils.global_state import set_global_state

    before = torch.get_default_dtype()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        set_global_state()
        model = ModelFromPackage(str(path))
    torch.set_default_dtype(before)
    return model


@BOTH
def test_load(benchmark, packages, who):
    benchmark.group = "loading a package, in a running process"
    load = load_ours if who == "ours" else load_theirs
    benchmark.pedantic(lambda: load(packages[who]), warmup_rounds=1, rounds=5)
