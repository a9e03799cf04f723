"""Elastic constants from stresses of strained structures."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms, units

from nequip_core.errors import ConfigError
from nequip_integrations.dynamics.relaxation import relaxed

__all__ = ["elastic_constants", "matrix_text"]

_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def elastic_constants(
    atoms: Atoms, strain: float, fmax: float, steps: int, relax: bool = True
) -> dict[str, Any]:
    """Return the elastic constants of a structure, GPa, in Voigt order xx yy zz yz xz xy.

    Each strain is applied in both directions, atoms are relaxed, and the stress is differentiated:
    C_ij = d stress_i / d strain_j, with engineering shear strains. Averages are those of Voigt,
    Reuss and Hill.

    Args:
        atoms: a structure with a calculator.
        strain: size of the strains.
        fmax: largest force of a relaxed structure, eV/Angstrom.
        steps: of a relaxation, at most.
        relax: whether atoms and cell are relaxed first; constants of a structure under stress
            are not those of the textbook.

    Raises:
        ConfigError: the structure is not periodic.
    """
    if not atoms.pbc.all():
        raise ConfigError("elastic constants need a structure periodic in three directions")
    start = relaxed(atoms, fmax, steps, cell=True)[0] if relax else atoms
    rest = float(np.abs(start.get_stress()).max() / units.GPa)
    constants = np.zeros((6, 6))
    for column, (row, other) in enumerate(_VOIGT):
        stresses = []
        for sign in (1, -1):
            matrix = np.eye(3)
            matrix[row, other] += sign * strain / 2
            matrix[other, row] += sign * strain / 2
            strained = start.copy()
            strained.set_cell(start.cell.array @ matrix, scale_atoms=True)
            strained.calc = atoms.calc
            stresses.append(relaxed(strained, fmax, steps)[0].get_stress())
        constants[:, column] = (stresses[0] - stresses[1]) / (2 * strain) / units.GPa
    asymmetry = float(np.abs(constants - constants.T).max())
    constants = (constants + constants.T) / 2
    return {
        "elastic_constants_GPa": constants.tolist(),
        "largest_asymmetry_GPa": asymmetry,
        "stress_before_GPa": rest,
        "cell_A": start.cell.array.tolist(),
        "is_stable": bool(np.linalg.eigvalsh(constants).min() > 0),
        **_averages(constants),
    }


def _averages(c: np.ndarray) -> dict[str, float | None]:
    """Return moduli of a polycrystal, GPa; R. Hill, Proc. Phys. Soc. A 65, 349 (1952)."""

    def moduli(m: np.ndarray) -> tuple[float, float, float]:
        diagonal = m[0, 0] + m[1, 1] + m[2, 2]
        beside = m[0, 1] + m[0, 2] + m[1, 2]
        return diagonal, beside, m[3, 3] + m[4, 4] + m[5, 5]

    diagonal, beside, shear = moduli(c)
    bulk_voigt, shear_voigt = (diagonal + 2 * beside) / 9, (diagonal - beside + 3 * shear) / 15
    if np.linalg.eigvalsh(c).min() <= 0:  # no compliance that means anything
        return {
            "bulk_modulus_GPa": bulk_voigt,
            "shear_modulus_GPa": None,
            "young_modulus_GPa": None,
        }
    diagonal, beside, shear = moduli(np.linalg.inv(c))
    bulk = (bulk_voigt + 1 / (diagonal + 2 * beside)) / 2
    rigid = (shear_voigt + 15 / (4 * diagonal - 4 * beside + 3 * shear)) / 2
    return {
        "bulk_modulus_GPa": float(bulk),
        "shear_modulus_GPa": float(rigid),
        "young_modulus_GPa": float(9 * bulk * rigid / (3 * bulk + rigid)),
    }


def matrix_text(found: dict[str, Any]) -> str:
    """Return the constants for people."""
    rows = found["elastic_constants_GPa"]
    lines = ["elastic constants (GPa), xx yy zz yz xz xy"]
    # Adding zero takes the sign from what rounds to zero.
    lines += ["  ".join(f"{round(value, 2) + 0.0:8.2f}" for value in row) for row in rows]
    moduli = [
        f"{name} modulus {found[f'{name}_modulus_GPa']:.4g} GPa"
        for name in ("bulk", "shear", "young")
        if found[f"{name}_modulus_GPa"] is not None
    ]
    stable = "mechanically stable" if found["is_stable"] else "NOT mechanically stable"
    lines.append(f"{', '.join(moduli)}; {stable}")
    lines.append(
        f"stress before {found['stress_before_GPa']:.2g} GPa, largest asymmetry "
        f"{found['largest_asymmetry_GPa']:.2g} GPa"
    )
    return "\n".join(lines)
