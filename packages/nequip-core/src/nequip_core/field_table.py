"""What every built-in field is: shape, dtype, irreps, unit and sign, as data and as a table.

Units are those of the data set: the table names them by the quantities they are made of. Kinds,
integer fields and Cartesian tensors are in `nequip_core.fields`, which packages carry; this module
is for people and tools.
"""

from __future__ import annotations

from dataclasses import dataclass

from nequip_core import fields
from nequip_core.errors import DataError, closest

__all__ = ["FIELDS", "FieldSpec", "describe_field", "markdown_table"]


@dataclass(frozen=True)
class FieldSpec:
    """What a field holds."""

    name: str
    """Key of the field in a frame."""
    shape: str
    """F frames, N atoms, E edges, B radial functions, L = (l_max + 1)^2, A attributes."""
    dtype: str
    """Of a frame; ``model`` for the dtype of the model's weights."""
    irreps: str
    """How a row transforms under rotation and inversion; empty for what is no such quantity."""
    unit: str
    """In quantities of the data set; ``1`` is dimensionless, empty for a number or index."""
    meaning: str
    """One line, with the sign convention where there is one."""

    @property
    def kind(self) -> str | None:
        """``graph``, ``node``, ``edge``, or None for a field of no kind."""
        return fields.get_field_type(self.name, error_on_unregistered=False)


FIELDS: dict[str, FieldSpec] = {
    spec.name: spec
    for spec in (
        FieldSpec(
            fields.POSITIONS_KEY,
            "(N, 3)",
            "float64",
            "1o",
            "length",
            "positions; need not be wrapped into the cell",
        ),
        FieldSpec(
            fields.ATOM_TYPE_KEY,
            "(N,)",
            "int64",
            "0e",
            "",
            "index of the type in the model's `type_names`",
        ),
        FieldSpec(fields.ATOMIC_NUMBERS_KEY, "(N,)", "int64", "0e", "", "atomic numbers"),
        FieldSpec(
            fields.CELL_KEY,
            "(F, 3, 3)",
            "float64",
            "3x1o",
            "length",
            "rows are the cell vectors; zeros where there is no cell",
        ),
        FieldSpec(fields.PBC_KEY, "(F, 3)", "bool", "3x0e", "", "periodic along each cell vector"),
        FieldSpec(fields.BATCH_KEY, "(N,)", "int64", "0e", "", "frame of each atom"),
        FieldSpec(fields.NUM_NODES_KEY, "(F,)", "int64", "0e", "", "atoms of each frame"),
        FieldSpec(
            fields.DATASET_KEY,
            "(F, 1)",
            "int64",
            "0e",
            "",
            "number of the data set a frame is from",
        ),
        FieldSpec(
            fields.EDGE_INDEX_KEY,
            "(2, E)",
            "int64",
            "",
            "",
            "row 0 the centre, where messages are summed, row 1 the neighbor",
        ),
        FieldSpec(
            fields.EDGE_CELL_SHIFT_KEY,
            "(E, 3)",
            "float64",
            "3x0e",
            "",
            "whole cell vectors to add to the neighbor's position",
        ),
        FieldSpec(
            fields.EDGE_TRANSPOSE_PERM_KEY,
            "(E,)",
            "int64",
            "",
            "",
            "order of the edges by (neighbor, centre)",
        ),
        FieldSpec(fields.EDGE_TYPE_KEY, "(2, E)", "int64", "", "", "types of centre and neighbor"),
        FieldSpec(
            fields.EDGE_VECTORS_KEY,
            "(E, 3)",
            "float64",
            "1o",
            "length",
            "pos[neighbor] - pos[centre] + shift @ cell",
        ),
        FieldSpec(
            fields.EDGE_LENGTH_KEY, "(E, 1)", "float64", "0e", "length", "length of the edge vector"
        ),
        FieldSpec(
            fields.NORM_LENGTH_KEY,
            "(E, 1)",
            "float64",
            "0e",
            "1",
            "length over the cutoff of the pair of types",
        ),
        FieldSpec(fields.EDGE_CUTOFF_KEY, "(E, 1)", "model", "0e", "1", "cutoff envelope"),
        FieldSpec(
            fields.EDGE_ATTRS_KEY,
            "(E, L)",
            "model",
            "sh",
            "1",
            "spherical harmonics of the edge vector",
        ),
        FieldSpec(
            fields.EDGE_EMBEDDING_KEY, "(E, B)", "model", "Bx0e", "1/length^2", "radial basis"
        ),
        FieldSpec(fields.EDGE_FEATURES_KEY, "(E, C)", "model", "model", "1", "features of edges"),
        FieldSpec(fields.EDGE_ENERGY_KEY, "(E, 1)", "model", "0e", "energy", "energy of an edge"),
        FieldSpec(
            fields.EDGE_FORCE_KEY, "(E, 3)", "float64", "1o", "energy/length", "+dE/d(edge vector)"
        ),
        FieldSpec(fields.NODE_ATTRS_KEY, "(N, A)", "model", "Ax0e", "1", "attributes of atoms"),
        FieldSpec(fields.NODE_FEATURES_KEY, "(N, dim)", "model", "model", "1", "features of atoms"),
        FieldSpec(
            fields.FEATURE_NORM_FACTOR_KEY,
            "(N, 1)",
            "model",
            "0e",
            "1",
            "factor of the sum over edges",
        ),
        FieldSpec(
            fields.PER_ATOM_ENERGY_KEY, "(N, 1)", "float64", "0e", "energy", "energy of each atom"
        ),
        FieldSpec(
            fields.TOTAL_ENERGY_KEY,
            "(F, 1)",
            "float64",
            "0e",
            "energy",
            "energy of a frame, the sum over its atoms",
        ),
        FieldSpec(
            fields.FREE_ENERGY_KEY,
            "(F, 1)",
            "float64",
            "0e",
            "energy",
            "energy of a frame consistent with its forces",
        ),
        FieldSpec(fields.FORCE_KEY, "(N, 3)", "float64", "1o", "energy/length", "-dE/d(pos)"),
        FieldSpec(
            fields.PARTIAL_FORCE_KEY,
            "(N, N, 3)",
            "float64",
            "1o",
            "energy/length",
            "-dE_i/d(pos_j); the sum over i is the force on j",
        ),
        FieldSpec(
            fields.STRESS_KEY,
            "(F, 3, 3)",
            "float64",
            "0e+2e",
            "energy/length^3",
            "(1/V) dE/d(strain); positive diagonal under tension",
        ),
        FieldSpec(
            fields.VIRIAL_KEY,
            "(F, 3, 3)",
            "float64",
            "0e+2e",
            "energy",
            "-dE/d(strain) = -V stress",
        ),
        FieldSpec(
            fields.ATOMIC_VIRIAL_KEY,
            "(N, 3, 3)",
            "float64",
            "0e+1e+2e",
            "energy",
            "an atom's part of the virial",
        ),
        FieldSpec(
            fields.PER_ATOM_STRESS_KEY,
            "(N, 3, 3)",
            "float64",
            "0e+2e",
            "energy/length^3",
            "stress of each atom",
        ),
        FieldSpec(
            fields.TOTAL_MAGMOM_KEY,
            "(F, 1)",
            "float64",
            "0e",
            "magneton",
            "magnetic moment of a frame",
        ),
        FieldSpec(
            fields.MAGMOM_KEY, "(N, 1)", "float64", "0e", "magneton", "magnetic moment of each atom"
        ),
        FieldSpec(
            fields.TOTAL_CHARGE_KEY, "(F, 1)", "int64", "0e", "charge", "total charge of a frame"
        ),
        FieldSpec(fields.CHARGE_KEY, "(N, 1)", "float64", "0e", "charge", "charge of each atom"),
        FieldSpec(
            fields.TOTAL_SPIN_KEY,
            "(F, 1)",
            "int64",
            "0e",
            "",
            "spin multiplicity or number of a frame, as the data set has it",
        ),
        FieldSpec(
            fields.DIPOLE_KEY,
            "(F, 3)",
            "float64",
            "1o",
            "charge length",
            "dipole moment of a frame",
        ),
        FieldSpec(
            fields.POLARIZATION_KEY,
            "(F, 3)",
            "float64",
            "1o",
            "charge/length^2",
            "polarization of a frame",
        ),
        FieldSpec(fields.DIELECTRIC_KEY, "(F, 3, 3)", "float64", "0e+2e", "1", "dielectric tensor"),
        FieldSpec(
            fields.BORN_CHARGE_KEY,
            "(N, 3, 3)",
            "float64",
            "0e+1e+2e",
            "charge",
            "Born effective charges",
        ),
        FieldSpec(
            fields.LMP_MLIAP_DATA_KEY,
            "",
            "object",
            "",
            "",
            "the LAMMPS object of an ML-IAP run; not a tensor",
        ),
        FieldSpec(
            fields.NUM_LOCAL_GHOST_NODES_KEY,
            "(2,)",
            "int64",
            "",
            "",
            "local and ghost atoms of a LAMMPS process",
        ),
    )
}
"""Every built-in field by its name."""


def describe_field(name: str) -> FieldSpec:
    """Return what a built-in field holds.

    Raises:
        DataError: it is not a built-in field.
    """
    if name not in FIELDS:
        raise DataError(f"'{name}' is not a built-in field{closest(name, list(FIELDS))}")
    return FIELDS[name]


def markdown_table() -> str:
    """Return the table of the documentation."""
    lines = ["| field | kind | shape | dtype | irreps | unit | meaning |"]
    lines.append("|---|---|---|---|---|---|---|")
    for spec in FIELDS.values():
        cells = (spec.kind or "", spec.shape, spec.dtype, spec.irreps, spec.unit, spec.meaning)
        lines.append(f"| `{spec.name}` | {' | '.join(cells)} |")
    return "\n".join(lines)
