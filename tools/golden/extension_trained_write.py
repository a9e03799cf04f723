"""Write tests/golden/extension/trained.* with the reference: a trained network of nequip-allegro.

Run where ``nequip==0.19.1`` and ``nequip-allegro==0.8.3`` are installed:
``python tools/golden/extension_trained_write.py``. It writes the checkpoint, without the states of
trainer and optimizer, the package, its members as written but compressed, and ``trained.npz``,
inputs and predictions of three frames as `reference_write` makes them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from reference_write import (
    RICH,
    TYPES,
    check_no_path,
    compress,
    run,
    strip_checkpoint,
    training_config,
    write_training_data,
)

FOLDER = Path(__file__).parents[2] / "tests" / "golden" / "extension"
NAME = "trained"
SHARED = (
    *("seed", "model_dtype", "type_names", "r_max", "per_edge_type_cutoff", "pair_potential"),
    *("per_type_energy_scales", "per_type_energy_shifts", "per_type_energy_scales_trainable"),
)
MODEL: dict[str, Any] = {
    **{key: RICH[key] for key in SHARED},
    "_target_": "allegro.model.AllegroModel",
    "l_max": 1,
    "num_layers": 2,
    "num_scalar_features": 4,
    "num_tensor_features": 2,
    "scalar_embed_mlp_hidden_layers_width": 4,
    "allegro_mlp_hidden_layers_width": 4,
    "readout_mlp_hidden_layers_width": 4,
    "radial_chemical_embed": {
        "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
        "num_bessels": 4,
        "bessel_trainable": True,
    },
    "avg_num_neighbors": dict.fromkeys(TYPES, 13.0) | {"Cu": 14.5},
}


def main() -> None:
    """Train for an epoch, package and predict; each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_training_data(folder / "data.xyz")
        config = training_config(NAME, MODEL)
        (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        run("nequip.scripts.train", "-cp", name, "-cn", NAME, cwd=folder)
        checkpoint, package = folder / f"{NAME}.ckpt", folder / f"{NAME}.nequip.zip"
        run("nequip.scripts.package", "build", checkpoint.name, package.name, cwd=folder)
        record = FOLDER / f"{NAME}.npz"
        tool = Path(__file__).with_name("reference_write.py")
        script = [sys.executable, "-W", "ignore", str(tool), name, "--predict"]
        subprocess.run([*script, str(checkpoint), str(record)], cwd=folder, check=True)
        compress(package, FOLDER / package.name)
        strip_checkpoint(checkpoint)
        (FOLDER / checkpoint.name).write_bytes(checkpoint.read_bytes())
        check_no_path([FOLDER / package.name, FOLDER / checkpoint.name, record], name)


if __name__ == "__main__":
    main()
