"""Frames of acetylacetone at 300 K and 600 K, for `acac.py` without the published ones.

    pip install tblite ase
    python tests/benchmarks/acac_frames.py FOLDER

Writes train_300K.xyz, test_MD_300K.xyz and test_MD_600K.xyz: snapshots of Langevin dynamics of the
enol with energies and forces of GFN2-xTB, which stand in for those of density-functional theory.
"""

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.optimize import BFGS

# Half of the planar enol, mirrored below: near enough for the optimizer.
HALF = {"C": [(1.22, 0.70, 0), (2.50, 1.48, 0)], "O": [(1.25, -0.60, 0)]}
METHYL = [(3.35, 0.80, 0), (2.55, 2.11, 0.88), (2.55, 2.11, -0.88)]
# file -> temperature (K), frames, seed
FILES = {
    "train_300K.xyz": (300.0, 150, 1),
    "test_MD_300K.xyz": (300.0, 100, 2),
    "test_MD_600K.xyz": (600.0, 100, 3),
}
EQUILIBRATION, BETWEEN = 1000, 25  # steps of 0.5 fs


def enol():
    """Return the molecule near its minimum, without a calculator."""
    symbols, positions = ["C", "H", "H"], [(0, 1.40, 0), (0, 2.48, 0), (0.35, -0.95, 0)]
    for sign in (1, -1):
        for symbol, places in {**HALF, "H": METHYL}.items():
            symbols += [symbol] * len(places)
            positions += [(sign * x, y, z) for x, y, z in places]
    return Atoms(symbols, positions)


def snapshots(atoms, temperature, count, seed):
    """Yield so many labelled frames of dynamics at a temperature (K)."""
    generator = np.random.default_rng(seed)
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]
    atoms.set_momenta(generator.normal(size=atoms.positions.shape) * spread)
    bath = {"temperature_K": temperature, "friction": 0.02 / units.fs, "fixcm": False}
    dynamics = Langevin(atoms, 0.5 * units.fs, rng=generator, **bath)
    dynamics.run(EQUILIBRATION)
    for _ in range(count):
        dynamics.run(BETWEEN)
        frame = Atoms(atoms.symbols, atoms.positions)
        frame.calc = SinglePointCalculator(
            frame, energy=atoms.get_potential_energy(), forces=atoms.get_forces()
        )
        yield frame


def main():
    from tblite.ase import TBLite

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    atoms = enol()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    BFGS(atoms, logfile=None).run(fmax=0.01)
    minimum = atoms.positions.copy()
    for name, (temperature, count, seed) in FILES.items():
        atoms.positions = minimum
        ase.io.write(folder / name, list(snapshots(atoms, temperature, count, seed)))


if __name__ == "__main__":
    main()
