"""Import every network below a folder, and compare its predictions with the recorded ones.

Usage: ``python reference_verify.py FOLDER``, of what ``reference_write.py`` wrote, in an
environment with nequip-model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from nequip_core.errors import NequIPError
from nequip_model.reference_import import import_reference

TOLERANCE = 1e-10  # float64, eV and Angstrom


def recorded(path: Path) -> list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Return inputs and outputs of each frame."""
    frames: dict[str, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = {}
    with np.load(path) as arrays:
        for key in arrays:
            frame, kind, field = key.split("/")
            pair = frames.setdefault(frame, ({}, {}))
            pair[kind == "output"][field] = torch.from_numpy(arrays[key])
    return list(frames.values())


def main() -> int:
    """Print one line a file and return the exit code."""
    folder = Path(sys.argv[1])
    files = sorted([*folder.rglob("*.ckpt"), *folder.rglob("*.nequip.zip")])
    if not files:
        print(f"{folder}: no networks found; nothing was proved")
        return 1
    failed = False
    for file in files:
        frames = recorded(file.parent / f"{file.name.split('.')[0]}.npz")
        try:
            saved = import_reference(file, frames, TOLERANCE)
        except NequIPError as error:
            failed = True
            print(f"{file}: FAILED: {error}")
        else:
            print(f"{file}: nequip {saved.versions.get('nequip')}, {len(frames)} frames reproduced")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
