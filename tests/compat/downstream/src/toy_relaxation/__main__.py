"""Relax with the package that is named; exit with 1 if the forces have not become smaller."""

from __future__ import annotations

import importlib.metadata
import sys

from toy_relaxation import relax

core = importlib.metadata.version("nequip-core")
before, after = relax(sys.argv[1])
print(f"nequip-core {core}: largest force {before:.2e} eV/Å before, {after:.2e} eV/Å after")
sys.exit(0 if core == "0.1.0" and after < 0.5 * before else 1)
