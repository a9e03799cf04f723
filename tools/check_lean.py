"""Run every golden package through ASE, and prove that nothing but the inference subset is here.

Run by `nox -s lean` in an environment that holds the wheels of nequip-core and nequip-integrations
and their requirements. Exits with 1 if a module that must be absent is installed or was imported,
or if a package does not load, predict, or balance its forces. A compiled model, made of one of the
packages elsewhere, must predict what that package predicts.

Usage: python -I tools/check_lean.py GOLDEN_FOLDER [PACKAGE COMPILED]
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

# What the inference subset exists to leave out.
ABSENT = (
    "e3nn",
    "hydra",
    "lightning",
    "nequip",
    "nequip_compile",
    "nequip_model",
    "nequip_package",
    "nequip_train",
    "omegaconf",
    "pytorch_lightning",
    "torchmetrics",
)
STRAY_FORCE = 1e-4  # eV/Å; the sum of float32 forces over a few dozen atoms stays far below


def find_intruders() -> list[str]:
    """Return a line for each module that is installed or imported and must not be."""
    loaded = [f"{name} was imported" for name in ABSENT if name in sys.modules]
    found = [f"{name} is installed" for name in ABSENT if importlib.util.find_spec(name)]
    return loaded + found


def crystal(package: Path) -> Any:
    """Return a rattled crystal of the package's species."""
    from ase.build import bulk

    from nequip_core.archive.reader import PackageReader

    symbols = list(PackageReader(package).metadata["atom_types"].values())
    atoms = bulk("Cu", cubic=True, a=4.0).repeat((2, 1, 1))
    atoms.set_chemical_symbols([symbols[i % len(symbols)] for i in range(len(atoms))])
    atoms.rattle(0.1, seed=0)
    return atoms


def check_compiled(package: Path, compiled: Path) -> str:
    """Compare a compiled model with the package it was made of; return the line to print.

    Raises:
        ValueError: a property differs by more than 1e-4 of its largest value.
    """
    import numpy as np

    from nequip_integrations.ase import NequIPCalculator

    atoms, worst = crystal(package), 0.0
    results = []
    for calculator in (
        NequIPCalculator.from_package(package, device="cpu", trust_code=True),
        NequIPCalculator.from_compiled_model(compiled, device="cpu"),
    ):
        atoms.calc = calculator
        results.append([atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()])
    for expected, found in zip(*results, strict=True):
        scale = np.abs(expected).max()
        worst = max(worst, float(np.abs(found - expected).max() / scale))
    if not worst <= 1e-4:
        raise ValueError(f"{compiled} differs from {package} by {worst:.1e} of the largest value")
    return f"{compiled.name}: differs from its package by {worst:.1e} of the largest value"


def check_package(package: Path) -> str:
    """Predict one crystal with `package` and return the line to print.

    Raises:
        ValueError: a prediction has the wrong shape, is not finite, or breaks a symmetry.
    """
    import numpy as np

    from nequip_integrations.ase import NequIPCalculator

    atoms = crystal(package)
    atoms.calc = NequIPCalculator.from_package(package, device="cpu", trust_code=True)
    energy = atoms.get_potential_energy()
    forces = atoms.get_forces()
    stress = atoms.get_stress(voigt=False)
    for name, value, shape in (("forces", forces, (len(atoms), 3)), ("stress", stress, (3, 3))):
        if value.shape != shape or not np.isfinite(value).all():
            raise ValueError(f"{package}: {name} has shape {value.shape}, or is not finite")
    stray = float(np.abs(forces.sum(axis=0)).max())
    if not np.isfinite(energy) or stray > STRAY_FORCE or not np.abs(forces).max() > 0:
        raise ValueError(f"{package}: energy {energy} eV, sum of forces {stray} eV/Å")
    return f"{package}: energy {energy:.6f} eV, largest force {np.abs(forces).max():.4f} eV/Å"


def main() -> int:
    """Print what was found and return the exit code."""
    # Beside them lie hostile files, and packages of the reference, which need what it needs.
    packages = sorted(Path(sys.argv[1]).glob("format*/*.nequip.zip"))
    if not packages:
        print(f"{sys.argv[1]}: no format*/*.nequip.zip found; nothing was proved")
        return 1
    for package in packages:
        print(check_package(package))
    if len(sys.argv) > 2:
        print(check_compiled(Path(sys.argv[2]), Path(sys.argv[3])))
    intruders = find_intruders()
    print("\n".join(intruders) if intruders else f"lean: none of {', '.join(ABSENT)}")
    return 1 if intruders else 0


if __name__ == "__main__":
    sys.exit(main())
