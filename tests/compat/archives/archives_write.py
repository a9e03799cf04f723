"""Write what the installed layers can write, with predictions, into an archive folder.

Usage: python -I archives_write.py FOLDER --name WRITER --expect DIST==VERSION ...

Runs in environments with released layers: it imports public names only, works in a temporary
folder, and takes the ways of 0.1 where the layers are 0.1. What these cannot make is listed with
the reason.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from corpus import check_versions, write_corpus, write_record

TYPES, R_MAX = ["Au", "Cu"], 3.5
TEMPLATE_SHIFTS = {"Au": -1.5, "Cu": -2.5}
MODIFIERS = [{"modifier": "modify_PerTypeScaleShift", "shifts": {"Au": -7.0, "Cu": -8.0}}]
MODEL: dict[str, Any] = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 1,
    "model_dtype": "float64",
    "type_names": TYPES,
    "r_max": R_MAX,
    "num_layers": 2,
    "l_max": 1,
    "num_features": 4,
    "radial_mlp_width": 8,
    "avg_num_neighbors": 12.0,
    "per_type_energy_scales": 1.5,
    "per_type_energy_shifts": {"Au": -3.0, "Cu": -3.5},
}
TEMPLATE: dict[str, Any] = {
    "_target_": "nequip_template.model.TemplateModel",
    "seed": 5,
    "model_dtype": "float64",
    "type_names": TYPES,
    "r_max": R_MAX,
    "per_type_energy_shifts": TEMPLATE_SHIFTS,
}


def training_config(model: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return the config of one epoch on the CPU."""
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 3}
    mapper = {
        "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
        "model_type_names": TYPES,
    }
    edges = {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": R_MAX}
    return {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": 1,
            "split_dataset": {"file_path": "frames.xyz", "train": 6, "val": 3, "test": 3},
            "transforms": [mapper, edges],
            "train_dataloader": loader,
            "val_dataloader": loader,
            "test_dataloader": loader,
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": False,
            "callbacks": [
                {
                    "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "dirpath": folder,
                    "filename": "best",
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
        "hydra": {"run": {"dir": f"{folder}-run"}},
    }


def write_frames() -> None:
    """Write twelve rattled copper-gold cells with the labels of ase's EMT to ``frames.xyz``."""
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.io import write

    frames = []
    for seed in range(12):
        atoms = bulk("Cu", cubic=True, a=3.85)
        atoms.set_chemical_symbols(["Cu", "Au", "Cu", "Au"])
        atoms.rattle(0.08, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    write("frames.xyz", frames)


def train(model: dict[str, Any], folder: str) -> Path:
    """Return the checkpoint of a training."""
    from nequip_train.command import main

    config = Path(f"{folder}.yaml")
    config.write_text(yaml.safe_dump(training_config(model, folder), sort_keys=False))
    if main([str(config)]):
        raise SystemExit(f"training '{folder}' failed")
    return Path(folder) / "best.ckpt"


class Writer:
    """Makes the items of one folder.

    Args:
        folder: where to.
        new: whether the layers are 0.2 or later.
    """

    def __init__(self, folder: Path, new: bool) -> None:
        from nequip_core.synthetic import synthetic_frame

        self.folder = folder
        self.new = new
        self.items: list[dict[str, Any]] = []
        self.absent: dict[str, str] = {}
        self.frames = {
            "crystal": synthetic_frame(TYPES, R_MAX, seed=11),
            "cluster": synthetic_frame(TYPES, R_MAX, periodic=False, seed=12),
        }
        self.consent = {"trust_code": True} if new else {}

    def load(self, path: Path) -> Any:
        """Return what a saved file holds."""
        from nequip_core.saved_model import load_saved_model

        return load_saved_model(path, **self.consent)

    def add(self, name: str, file: Path, models: Any, dtype: str = "float64") -> Path:
        """Copy a file into the folder, record what `models` predict, and return the copy."""
        from nequip_core.archive.reader import PackageReader

        copy = self.folder / f"{name}{'.ckpt' if file.suffix == '.ckpt' else '.nequip.zip'}"
        shutil.copyfile(file, copy)
        record = f"{name}.safetensors"
        write_record(self.folder / record, models, self.frames)
        is_package = file.suffix == ".zip"
        metadata = PackageReader(copy).metadata if is_package else {}
        item = {
            "name": name,
            "kind": "package" if is_package else "checkpoint",
            "file": copy.name,
            "record": record,
            "dtype": dtype,
            "format": metadata.get("package_version_id", 0),
            "type_names": TYPES,
            "r_max": R_MAX,
            "models": sorted(models),
        }
        self.items.append(item)
        print(f"wrote {name}", flush=True)
        return copy

    def add_checkpoint(self, name: str, config: dict[str, Any]) -> Path:
        """Train, add the checkpoint, and return it."""
        checkpoint = train(config, name)
        return self.add(name, checkpoint, self.load(checkpoint).models)

    def add_package(self, name: str, saved: Any, dtype: str = "float64") -> Path:
        """Package models, add the package with what the models predicted before, return it."""
        from nequip_package.build import build_package

        return self.add(name, build_package(saved, f"{name}.nequip.zip"), saved.models, dtype)

    def built(self, *configs: dict[str, Any]) -> Any:
        """Return untrained models, as a saved model: one, or several named ``a``, ``b``, ..."""
        from nequip_core.saved_model import SavedModel
        from nequip_model.checkpoint import build_models

        models = [build_models(config)["sole_model"] for config in configs]
        named = {chr(97 + index): model for index, model in enumerate(models)}
        several = torch.nn.ModuleDict(named if len(named) > 1 else {"sole_model": models[0]})
        config = {"training_module": {"model": configs[0]}}
        return SavedModel(several.eval(), config, {}, Path("made.ckpt"))

    def write_modified(self, package: Path) -> None:
        """Add a modified package: of the package, or, in 0.1, of the checkpoint's models."""
        from nequip_core.modifiers import apply_modifiers

        saved = self.load(self.folder / "checkpoint.ckpt")
        before = saved.models["sole_model"]
        modified = torch.nn.ModuleDict({"sole_model": apply_modifiers(before, MODIFIERS)})
        if self.new:
            from nequip_package.modify import modify_package

            path = Path("modified.nequip.zip")
            modify_package(package, path, MODIFIERS, trust_code=True)
            self.add("package-modified", path, modified)
        else:
            from dataclasses import replace

            self.add_package("package-modified", replace(saved, models=modified.eval()))

    def write_descendants(self, package: Path) -> None:
        """Add what is made from a package, which 0.1 cannot."""
        if not self.new:
            reason = "nequip-train 0.1 cannot start from a package"
            self.absent["checkpoint-fine-tuned"] = reason
            self.absent["package-fine-tuned"] = reason
            self.absent["package-repackaged"] = "nequip-package 0.1 packages checkpoints only"
            return
        base = {
            "_target_": "nequip.model.ModelFromPackage",
            "package_path": str(package),
            "trust_code": True,
        }
        tuned = self.add_checkpoint("checkpoint-fine-tuned", base)
        self.add_package("package-fine-tuned", self.load(tuned))
        self.add_package("package-repackaged", self.load(package))

    def write_all(self) -> None:
        """Add every item, or the reason why not."""
        write_frames()
        checkpoint = self.add_checkpoint("checkpoint", MODEL)
        package = self.add_package("package", self.load(checkpoint))
        single = {**MODEL, "model_dtype": "float32"}
        self.add_package("package-float32", self.built(single), "float32")
        other = {**MODEL, "seed": 2, "num_layers": 1}
        self.add_package("package-two-models", self.built(MODEL, other))
        self.write_modified(package)
        self.write_descendants(package)
        template = self.add_checkpoint("checkpoint-template", TEMPLATE)
        self.write_template_package(self.load(template))

    def write_template_package(self, saved: Any) -> None:
        """Add the package of the extension's model, which 0.1 must refuse to make.

        Raises:
            SystemExit: 0.1 makes it.
        """
        from nequip_core.errors import PackagingError

        if self.new:
            self.add_package("package-template", saved)
            return
        from nequip_package.build import build_package

        try:
            build_package(saved, "refused.nequip.zip")
        except PackagingError as error:
            if "sympy" not in str(error):
                raise
            reason = "nequip-package 0.1 has no rule for sympy, which e3nn.o3 imports"
            self.absent["package-template"] = f"PackagingError: {reason}"
        else:
            raise SystemExit("0.1 packages the extension's model: list it with the others")


def main() -> int:
    """Write the folder and return the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, help="replaced if it exists")
    parser.add_argument("--name", required=True, help="of the environment")
    parser.add_argument("--expect", nargs="+", required=True, metavar="DIST==VERSION")
    options = parser.parse_args()
    versions = check_versions(options.expect)
    target = options.folder.resolve()
    new = tuple(map(int, versions["nequip-core"].split(".")[:2])) >= (0, 2)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        # What is built here must not become known to the user's own list.
        os.environ["XDG_DATA_HOME"] = f"{scratch}/data"
        made = Path(scratch) / "made"
        made.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer = Writer(made, new)
            writer.write_all()
        content = {"writer": options.name, "versions": versions, "items": writer.items}
        write_corpus(made, {**content, "absent": writer.absent})
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target)
        os.chdir(target.anchor)
    print(f"{options.name}: {len(writer.items)} items, {len(writer.absent)} that cannot be made")
    for name, reason in writer.absent.items():
        print(f"  without {name}: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
