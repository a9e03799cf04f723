"""Write the golden networks of one version of ``nequip``, to be imported by nequip-model.

Run it in an environment that has that version: ``python reference_write.py FOLDER``. It trains two
tiny networks for one epoch on copper-gold cells made here, packages them, and records what the
installed version predicts, in float64. Files below FOLDER/<version>/:

- ``<name>.ckpt``: without the states of trainer, callbacks and optimizer, which an import does not
  read and which hold absolute paths;
- ``<name>.nequip.zip``: its members as written, compressed, under the dates of the original;
- ``<name>.npz``: arrays ``<frame>/input/<field>`` and ``<frame>/output/<field>``;
- ``PROVENANCE.md``: versions and digests.

It uses no more than numpy, ase, torch and what the installed nequip brings.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import inspect
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

TYPES = ["Cu", "Au"]
R_MAX = 4.0
OUTPUTS = ("total_energy", "atomic_energy", "forces", "stress", "virial")
DISTRIBUTIONS = ("nequip", "e3nn", "torch", "lightning", "numpy", "ase")

BASIC: dict[str, Any] = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 1,
    "model_dtype": "float64",
    "type_names": TYPES,
    "r_max": R_MAX,
    "l_max": 2,
    "num_layers": 3,
    "num_features": 2,
    "radial_mlp_width": 4,
    "avg_num_neighbors": 12.0,
    "per_type_energy_scales": 1.5,
    "per_type_energy_shifts": {"Cu": 0.25, "Au": -0.5},
}
# Everything that every version has.
RICH: dict[str, Any] = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 2,
    "model_dtype": "float64",
    "type_names": TYPES,
    "r_max": R_MAX,
    "per_edge_type_cutoff": {"Cu": 3.5, "Au": {"Cu": 3.75, "Au": 4.0}},
    "l_max": 1,
    "parity": False,
    "num_layers": 3,
    "num_features": 4,
    "radial_mlp_depth": 2,
    "radial_mlp_width": 8,
    "num_bessels": 6,
    "bessel_trainable": True,
    "polynomial_cutoff_p": 5,
    "avg_num_neighbors": 14.5,
    "convnet_resnet": True,
    "per_type_energy_scales": {"Cu": 1.5, "Au": 0.75},
    "per_type_energy_shifts": {"Cu": 0.25, "Au": -0.5},
    "per_type_energy_scales_trainable": True,
    "per_type_energy_shifts_trainable": True,
    "pair_potential": {
        "_target_": "nequip.nn.pair_potential.ZBL",
        "units": "metal",
        "chemical_species": TYPES,
    },
}
# What came with 0.16.
NEWER: dict[str, Any] = {
    "avg_num_neighbors": {"Cu": 14.5, "Au": 13.0},
    "readout_mlp_hidden_layers_depth": 1,
    "readout_mlp_hidden_layers_width": 5,
    "readout_mlp_nonlinearity": "tanh",
    "type_embed_num_features": 3,
    "num_features": [4, 3],
    "learnable_shift": True,
}


def networks(version: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Return the model section of each network by name."""
    return {"basic": BASIC, "rich": {**RICH, **NEWER} if version >= (0, 16) else RICH}


def write_training_data(path: Path) -> None:
    """Write six rattled copper-gold cells with the labels of ase's EMT."""
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.io import write

    frames = []
    for seed in range(6):
        atoms = bulk("Cu", cubic=True)
        atoms.set_chemical_symbols(["Cu", "Au", "Cu", "Au"])
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    write(path, frames)


def training_config(name: str, model: dict[str, Any]) -> dict[str, Any]:
    """Return the config; its file names are relative, so that no path is archived."""
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper

    parameters = inspect.signature(ChemicalSpeciesToAtomTypeMapper.__init__).parameters
    names = "model_type_names" if "model_type_names" in parameters else "chemical_symbols"
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 2}
    fractions = {"train": 0.5, "val": 0.25, "test": 0.25}
    return {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": 1,
            "split_dataset": {"file_path": "data.xyz", **fractions},
            "transforms": [
                {
                    "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
                    names: TYPES,
                },
                {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": R_MAX},
            ],
            "train_dataloader": loader,
            "val_dataloader": loader,
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": 1,
            "enable_progress_bar": False,
            "logger": False,
            "callbacks": [
                {
                    "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "dirpath": ".",
                    "filename": name,
                }
            ],
        },
        "training_module": {
            "_target_": "nequip.train.EMALightningModule",
            "ema_decay": 0.5,
            "loss": {
                "_target_": "nequip.train.EnergyForceLoss",
                "coeffs": {"total_energy": 1.0, "forces": 1.0},
            },
            "val_metrics": {
                "_target_": "nequip.train.EnergyForceMetrics",
                "coeffs": {"total_energy_mae": 1.0, "forces_mae": 1.0},
            },
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.02},
            "model": model,
        },
        "global_options": {"allow_tf32": False},
    }


def prediction_frames() -> dict[str, dict[str, np.ndarray]]:
    """Return the inputs of a crystal, a sheared cell and a molecule, with full neighbor lists."""
    from ase import Atoms
    from ase.build import bulk
    from ase.neighborlist import neighbor_list

    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.1, seed=11)
    sheared = bulk("Au", cubic=True).repeat((2, 1, 1))
    sheared.set_cell(sheared.cell.array @ np.array([[1, 0.1, 0], [0, 1, 0.05], [0.02, 0, 1]]), True)
    sheared.rattle(0.1, seed=12)
    places = [[0, 0, 0], [2.3, 0.1, 0], [0.2, 2.4, 0.3], [1.5, 1.4, 1.9], [0.1, -0.3, 1.7]]
    molecule = Atoms("Cu5", positions=places)
    frames = {}
    for name, atoms in (("crystal", crystal), ("sheared", sheared), ("molecule", molecule)):
        centre, neighbour, shift = neighbor_list("ijS", atoms, R_MAX)
        frames[name] = {
            "pos": atoms.positions,
            "atom_types": np.arange(len(atoms)) % 2,
            "edge_index": np.stack([centre, neighbour]),
        }
        if atoms.pbc.all():
            frames[name]["cell"] = atoms.cell.array.reshape(1, 3, 3)
            frames[name]["edge_cell_shift"] = shift.astype(np.float64)
    return frames


def strip_checkpoint(path: Path) -> None:
    """Leave what an import reads: the weights and the hyper-parameters."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    kept = ("epoch", "global_step", "pytorch-lightning_version", "state_dict", "hparams_name")
    slim = {key: content[key] for key in (*kept, "hyper_parameters")}
    torch.save(slim, path)


def compress(package: Path, target: Path) -> None:
    """Write the members of a package to `target`, compressed."""
    with (
        zipfile.ZipFile(package) as source,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as sink,
    ):
        for entry in source.infolist():
            member = zipfile.ZipInfo(entry.filename, entry.date_time)
            sink.writestr(member, source.read(entry), zipfile.ZIP_DEFLATED, 9)


def check_no_path(files: list[Path], folder: str) -> None:
    """Raise if a file, or a member of one, holds the folder it was made in."""
    for file in files:
        contents = [file.read_bytes()]
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                contents += [archive.read(entry) for entry in archive.infolist()]
        for content in contents:
            for word in (folder, str(Path.home()), sys.prefix):
                if len(word) > 1 and word.encode() in content:
                    raise SystemExit(f"'{file}' holds the path '{word}'")


def run(module: str, *arguments: str, cwd: Path) -> None:
    """Run a command of nequip in a process of its own."""
    code = f"import sys; sys.argv[0] = '{module}'; from {module} import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    subprocess.run(command, cwd=cwd, env=environment, check=True)


def predict(checkpoint: Path, record: Path) -> None:
    """Write inputs and predictions of the frames; runs in a process of its own."""
    from nequip.utils.global_state import set_global_state

    set_global_state()
    try:
        from nequip.model.saved_models.checkpoint import ModelFromCheckpoint
    except ImportError:
        from nequip.model import ModelFromCheckpoint
    model = ModelFromCheckpoint(str(checkpoint))["sole_model"].eval()
    arrays: dict[str, np.ndarray] = {}
    for name, inputs in prediction_frames().items():
        out = model({key: torch.as_tensor(value) for key, value in inputs.items()})
        arrays.update({f"{name}/input/{key}": value for key, value in inputs.items()})
        fields = OUTPUTS if "cell" in inputs else OUTPUTS[:3]
        arrays.update({f"{name}/output/{key}": out[key].detach().numpy() for key in fields})
    np.savez_compressed(record, **arrays)


def provenance(version: str, files: list[Path]) -> str:
    """Return the text of ``PROVENANCE.md``."""
    versions = "\n".join(f"| {n} | {importlib.metadata.version(n)} |" for n in DISTRIBUTIONS)
    digests = "\n".join(
        f"| `{file.name}` | `{hashlib.sha256(file.read_bytes()).hexdigest()}` |" for file in files
    )
    return (
        f"# Networks of nequip {version}\n\n"
        "Written by `tools/golden/reference_write.py`: trained for one epoch on copper-gold cells\n"
        "whose labels are ase's EMT, with an exponential moving average of the weights. The\n"
        "checkpoints lack the states of trainer, callbacks and optimizer; the members of the\n"
        "packages are as written, but compressed. `<name>.npz` holds inputs and predictions.\n\n"
        f"| written with | version |\n|---|---|\n{versions}\n| python | "
        f"{sys.version.split()[0]} |\n\n| file | sha256 |\n|---|---|\n{digests}\n"
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--predict", nargs=2, metavar=("CKPT", "NPZ"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.predict:
        predict(*map(Path, options.predict))
        return
    version = importlib.metadata.version("nequip")
    release = tuple(map(int, version.split(".")))
    # A package is mostly source code: before 0.16 that of one network is enough.
    packaged = ("basic", "rich") if release >= (0, 16) else ("basic",)
    target = options.folder.resolve() / version
    target.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_training_data(folder / "data.xyz")
        for network, model in networks(release).items():
            config = training_config(network, model)
            (folder / f"{network}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
            run("nequip.scripts.train", "-cp", name, "-cn", network, cwd=folder)
            checkpoint, package = folder / f"{network}.ckpt", folder / f"{network}.nequip.zip"
            if network in packaged:
                arguments = ("build", checkpoint.name, package.name)
                run("nequip.scripts.package", *arguments, cwd=folder)
                compress(package, target / package.name)
                written.append(target / package.name)
            record = target / f"{network}.npz"
            script = [sys.executable, "-W", "ignore", __file__, name, "--predict"]
            subprocess.run([*script, str(checkpoint), str(record)], cwd=folder, check=True)
            strip_checkpoint(checkpoint)
            (target / checkpoint.name).write_bytes(checkpoint.read_bytes())
            written += [target / checkpoint.name, record]
        check_no_path(written, name)
    (target / "PROVENANCE.md").write_text(provenance(version, sorted(written)))


if __name__ == "__main__":
    main()
