"""Relax a crystal with a packaged model; uses nequip-integrations and ase only."""

from __future__ import annotations

from nequip_integrations.ase import NequIPCalculator


def relax(package: str, steps: int = 20) -> tuple[float, float]:
    """Return the largest force, in eV/Å, before and after a relaxation."""
    from ase.build import bulk
    from ase.optimize import BFGS

    atoms = bulk("Cu", cubic=True, a=3.8)
    atoms.set_chemical_symbols(["Cu", "Au", "Cu", "Au"])
    atoms.rattle(0.1, seed=1)
    atoms.calc = NequIPCalculator.from_package(package, device="cpu")
    before = float(abs(atoms.get_forces()).max())
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=steps)
    return before, float(abs(atoms.get_forces()).max())
