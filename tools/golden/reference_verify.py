"""Read every network below a folder in every way there is, and compare with the recorded outputs.

Usage: ``python reference_verify.py FOLDER``, of what ``reference_write.py`` wrote, in an
environment with nequip-model and nequip-package.

| way | of | tolerance, float64 |
|---|---|---|
| snapshot: the code in the package runs | packages | 1e-12 |
| import: weights mapped into our architecture | packages, checkpoints | 1e-10 |
| convert: that, as a package of ours, loaded by rebuild | packages, checkpoints | 1e-10 |
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from nequip_core.archive.loading import load_package
from nequip_core.errors import NequIPError
from nequip_model.reference_import import check_predictions, import_reference
from nequip_package.convert import convert_package

SNAPSHOT_TOLERANCE, TOLERANCE = 1e-12, 1e-10  # eV and Angstrom
Frames = list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]


def recorded(path: Path) -> Frames:
    """Return inputs and outputs of each frame."""
    frames: dict[str, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = {}
    with np.load(path) as arrays:
        for key in arrays:
            frame, kind, field = key.split("/")
            pair = frames.setdefault(frame, ({}, {}))
            pair[kind == "output"][field] = torch.from_numpy(arrays[key])
    return list(frames.values())


def stored(file: Path, folder: Path) -> Path:
    """Return `file`; of a package, which is kept compressed, a copy as torch writes them."""
    if file.suffix != ".zip":
        return file
    copy = folder / file.name
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(copy, "w") as sink:
        for entry in source.infolist():
            sink.writestr(entry.filename, source.read(entry))
    return copy


def snapshot(file: Path, frames: Frames) -> None:
    """Check what the code in the package computes."""
    model = load_package(file, load="snapshot", trust_code=True).models["sole_model"]
    for inputs, outputs in frames:
        check_predictions(model, inputs, outputs, SNAPSHOT_TOLERANCE)


def imported(file: Path, frames: Frames) -> None:
    """Check what our architecture computes with the file's weights."""
    import_reference(file, frames, TOLERANCE)


def converted(file: Path, frames: Frames) -> None:
    """Check what a package of ours computes that was converted, without the code in it."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "converted.nequip.zip"
        convert_package(file, package)
        model = load_package(package, load="rebuild").models["sole_model"]
        for inputs, outputs in frames:
            check_predictions(model, inputs, outputs, TOLERANCE)


def main() -> int:
    """Print one line a file and way, and return the exit code."""
    folder = Path(sys.argv[1])
    files = sorted([*folder.rglob("*.ckpt"), *folder.rglob("*.nequip.zip")])
    if not files:
        print(f"{folder}: no networks found; nothing was proved")
        return 1
    failed = False
    for file in files:
        frames = recorded(file.parent / f"{file.name.split('.')[0]}.npz")
        ways: list[Callable[[Path, Frames], None]] = [imported, converted]
        if file.suffix == ".zip":
            ways.insert(0, snapshot)
        for way in ways:
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    way(stored(file, Path(scratch)), frames)
                except NequIPError as error:
                    failed = True
                    print(f"{file}: {way.__name__}: FAILED: {error}")
                else:
                    print(f"{file}: {way.__name__}: {len(frames)} frames reproduced")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
