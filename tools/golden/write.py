"""Write a golden package: an archive that every later version must read and predict the same with.

Makes a small network with a fixed seed (no training: a reader cannot tell), packages it, and puts
beside it a few frames with the float64 outputs of the model before it was packaged. A golden folder
is never changed after a release; a new format or version gets a folder of its own.

Usage: python tools/golden/write.py [FOLDER]     (default: tests/golden)
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from nequip_core.archive.format import CURRENT_FORMAT
from nequip_core.frames import Frame, batched_from_list, from_dict
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.saved_model import SOLE_MODEL, SavedModel
from nequip_core.synthetic import synthetic_frame
from nequip_model.checkpoint import build_models
from nequip_package.build import build_package

ROOT = Path(__file__).parents[2]
LIBRARIES = ("nequip-core", "nequip-model", "nequip-package", "torch", "e3nn", "numpy")
OUTPUTS = ("total_energy", "atomic_energy", "forces", "virial", "stress")
MODEL = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 20251,
    "model_dtype": "float64",
    "type_names": ["Cu", "Au"],
    "r_max": 4.5,
    "num_layers": 3,
    "l_max": 2,
    "parity": True,
    "num_features": [6, 4, 3],
    "radial_mlp_width": 8,
    "avg_num_neighbors": 24.0,
    "per_type_energy_scales": {"Cu": 0.9, "Au": 1.3},
    "per_type_energy_shifts": {"Cu": -3.5, "Au": -3.2},
}
CONFIG = {
    "data": {
        "_target_": "nequip.data.datamodule.ASEDataModule",
        "seed": 1,
        "split_dataset": {"file_path": "alloy.xyz", "train": 0.8, "val": 0.1, "test": 0.1},
    },
    "trainer": {"_target_": "lightning.Trainer", "max_epochs": 1},
    "runs": ["train"],
    "training_module": {"_target_": "nequip.train.EMALightningModule", "model": MODEL},
}


def make_frames() -> dict[str, Frame]:
    """Return the frames by name: crystal, cluster, a cell smaller than the cutoff, and a batch."""
    names, r_max = MODEL["type_names"], MODEL["r_max"]
    crystal = synthetic_frame(names, r_max, seed=1)
    other = synthetic_frame(names, r_max, seed=2, num_atoms=5)
    cluster = synthetic_frame(names, r_max, periodic=False, seed=3)
    small = from_dict(
        {
            "pos": [[0.0, 0.0, 0.0], [1.3, 1.5, 1.9]],
            "cell": [[3.1, 0.0, 0.0], [0.6, 3.3, 0.0], [-0.4, 0.5, 3.6]],
            "pbc": True,
            "atom_types": torch.tensor([1, 0]),
        }
    )
    return {
        "crystal": crystal,
        "cluster": cluster,
        "small_cell": compute_neighborlist_(small, r_max),
        "batch": batched_from_list([crystal, other]),
    }


def write_frames(path: Path, model: torch.nn.Module) -> None:
    """Write every frame's inputs and the model's outputs, `<frame>/<input|output>/<field>`."""
    tensors = {}
    for name, frame in make_frames().items():
        predicted = model(dict(frame))
        for key, value in frame.items():
            tensors[f"{name}/input/{key}"] = value.clone().contiguous()
        for key in OUTPUTS:
            tensors[f"{name}/output/{key}"] = predicted[key].detach().clone().contiguous()
    save_file(tensors, path)


def git(*arguments: str) -> str:
    """Return what git prints about this checkout."""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def provenance(digests: dict[str, str]) -> str:
    """Return the text of PROVENANCE.md."""
    commit = git("rev-parse", "HEAD").strip()
    if git("status", "--porcelain", "--", *(f"packages/{name}/src" for name in LIBRARIES[:3])):
        commit += " with uncommitted changes"
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    versions["python"] = platform.python_version()
    rows = "\n".join(f"| {name} | {version} |" for name, version in versions.items())
    sums = "\n".join(f"| `{name}` | `{digest}` |" for name, digest in digests.items())
    return f"""# Where this golden package comes from

Written by `python tools/golden/write.py` at commit `{commit}`, on {platform.machine()}, CPU.

A network with random weights (seed {MODEL["seed"]}), package format {CURRENT_FORMAT}.
`frames.safetensors` holds inputs `<frame>/input/<field>` and the float64 outputs
`<frame>/output/<field>` that the model gave before it was packaged. No training data are involved.

| written with | version |
|---|---|
{rows}

| file | sha256 |
|---|---|
{sums}

Do not change these files: every later version has to read them and predict the same.
"""


def write_golden(folder: Path) -> None:
    """Write the golden package into a new `folder`."""
    folder.mkdir(parents=True)
    models = build_models(MODEL).eval()
    saved = SavedModel(models, CONFIG, {}, Path("golden.ckpt"))
    build_package(saved, folder / "model.nequip.zip", print)
    write_frames(folder / "frames.safetensors", models[SOLE_MODEL])
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }
    sums = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    (folder / "SHA256SUMS").write_text(sums)
    (folder / "PROVENANCE.md").write_text(provenance(digests))


def main() -> int:
    """Write the golden package of this version and return the exit code."""
    parser = argparse.ArgumentParser(description="Write the golden package of this version.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "tests" / "golden")
    version = importlib.metadata.version("nequip-package")
    target = parser.parse_args().folder / f"format{CURRENT_FORMAT}-nequip-{version}"
    if target.exists():
        print(f"'{target}' exists; golden packages are not overwritten", file=sys.stderr)
        return 1
    write_golden(target)
    total = sum(path.stat().st_size for path in target.iterdir())
    print(f"wrote {target} ({total / 1e3:.0f} kB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
