"""Field names of frames and batches, and what kind of quantity each one is.

Axes: F frames of a batch, N atoms, E edges. A *graph* field has one row a frame, a *node* field
one row an atom, an *edge* field one row an edge. Energies, lengths and so on are in the units of
the data set: the framework has no unit system of its own; stress must be energy / length^3.

Signs: ``forces`` = -dE/d(pos); ``stress`` = (1/V) dE/d(strain), positive diagonal under tension
(the sign of ASE, the opposite of VASP); ``virial`` = -dE/d(strain) = -V * stress.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# Plain `Final` strings, not an enum: TorchScript and packaged code read them as constants.
POSITIONS_KEY: Final[str] = "pos"
ATOM_TYPE_KEY: Final[str] = "atom_types"
ATOMIC_NUMBERS_KEY: Final[str] = "atomic_numbers"
CELL_KEY: Final[str] = "cell"
PBC_KEY: Final[str] = "pbc"
BATCH_KEY: Final[str] = "batch"
NUM_NODES_KEY: Final[str] = "num_atoms"
DATASET_KEY: Final[str] = "dataset"

EDGE_INDEX_KEY: Final[str] = "edge_index"
EDGE_CELL_SHIFT_KEY: Final[str] = "edge_cell_shift"
EDGE_VECTORS_KEY: Final[str] = "edge_vectors"
EDGE_LENGTH_KEY: Final[str] = "edge_lengths"
NORM_LENGTH_KEY: Final[str] = "normed_edge_lengths"
EDGE_CUTOFF_KEY: Final[str] = "edge_cutoff"
EDGE_ATTRS_KEY: Final[str] = "edge_attrs"
EDGE_EMBEDDING_KEY: Final[str] = "edge_embedding"
EDGE_FEATURES_KEY: Final[str] = "edge_features"
EDGE_ENERGY_KEY: Final[str] = "edge_energy"
EDGE_FORCE_KEY: Final[str] = "edge_forces"
EDGE_TYPE_KEY: Final[str] = "edge_type_flat"

NODE_ATTRS_KEY: Final[str] = "node_attrs"
NODE_FEATURES_KEY: Final[str] = "node_features"
FEATURE_NORM_FACTOR_KEY: Final[str] = "feature_norm_factor"
PARTIAL_FORCE_KEY: Final[str] = "partial_forces"

PER_ATOM_ENERGY_KEY: Final[str] = "atomic_energy"
TOTAL_ENERGY_KEY: Final[str] = "total_energy"
FREE_ENERGY_KEY: Final[str] = "free_energy"
FORCE_KEY: Final[str] = "forces"
STRESS_KEY: Final[str] = "stress"
VIRIAL_KEY: Final[str] = "virial"
ATOMIC_VIRIAL_KEY: Final[str] = "atomic_virial"
PER_ATOM_STRESS_KEY: Final[str] = "stresses"
TOTAL_MAGMOM_KEY: Final[str] = "magmom"
MAGMOM_KEY: Final[str] = "magmoms"
TOTAL_CHARGE_KEY: Final[str] = "charge"
CHARGE_KEY: Final[str] = "charges"
TOTAL_SPIN_KEY: Final[str] = "spin"
DIPOLE_KEY: Final[str] = "dipole"
POLARIZATION_KEY: Final[str] = "polarization"
DIELECTRIC_KEY: Final[str] = "dielectric_tensor"
BORN_CHARGE_KEY: Final[str] = "born_effective_charges"

EDGE_TRANSPOSE_PERM_KEY: Final[str] = "edge_transpose_perm"
LMP_MLIAP_DATA_KEY: Final[str] = "lmp_mliap_data"
NUM_LOCAL_GHOST_NODES_KEY: Final[str] = "num_local_ghost_atoms"

_CONSTANTS = {name: value for name, value in list(globals().items()) if name.endswith("_KEY")}

__all__ = [
    "ABBREV",
    "deregister_fields",
    "field_abbreviation",
    "get_field_type",
    "is_cartesian_tensor",
    "is_long",
    "register_fields",
]
__all__ += list(_CONSTANTS)

_GRAPH_FIELDS: set[str] = {
    CELL_KEY,
    PBC_KEY,
    NUM_NODES_KEY,
    DATASET_KEY,
    TOTAL_ENERGY_KEY,
    FREE_ENERGY_KEY,
    STRESS_KEY,
    VIRIAL_KEY,
    TOTAL_MAGMOM_KEY,
    TOTAL_CHARGE_KEY,
    TOTAL_SPIN_KEY,
    DIPOLE_KEY,
    POLARIZATION_KEY,
    DIELECTRIC_KEY,
}
_NODE_FIELDS: set[str] = {
    POSITIONS_KEY,
    ATOM_TYPE_KEY,
    ATOMIC_NUMBERS_KEY,
    BATCH_KEY,
    NODE_ATTRS_KEY,
    NODE_FEATURES_KEY,
    PER_ATOM_ENERGY_KEY,
    FEATURE_NORM_FACTOR_KEY,
    FORCE_KEY,
    ATOMIC_VIRIAL_KEY,
    PER_ATOM_STRESS_KEY,
    MAGMOM_KEY,
    CHARGE_KEY,
    BORN_CHARGE_KEY,
}
_EDGE_FIELDS: set[str] = {
    EDGE_CELL_SHIFT_KEY,
    EDGE_VECTORS_KEY,
    EDGE_LENGTH_KEY,
    NORM_LENGTH_KEY,
    EDGE_CUTOFF_KEY,
    EDGE_ATTRS_KEY,
    EDGE_EMBEDDING_KEY,
    EDGE_FEATURES_KEY,
    EDGE_ENERGY_KEY,
    EDGE_FORCE_KEY,
}
_LONG_FIELDS: set[str] = {
    EDGE_INDEX_KEY,
    EDGE_TYPE_KEY,
    NUM_LOCAL_GHOST_NODES_KEY,
    TOTAL_CHARGE_KEY,
    TOTAL_SPIN_KEY,
    ATOM_TYPE_KEY,
    ATOMIC_NUMBERS_KEY,
    BATCH_KEY,
    NUM_NODES_KEY,
    DATASET_KEY,
}
_CARTESIAN_TENSOR_FIELDS: dict[str, str] = {
    STRESS_KEY: "ij=ji",
    VIRIAL_KEY: "ij=ji",
    ATOMIC_VIRIAL_KEY: "ij",
    PER_ATOM_STRESS_KEY: "ij=ji",
    DIELECTRIC_KEY: "ij=ji",
    BORN_CHARGE_KEY: "ij",
}
_BUILT_IN: frozenset[str] = frozenset(_CONSTANTS.values())

ABBREV: Final[dict[str, str]] = {
    TOTAL_ENERGY_KEY: "E",
    PER_ATOM_ENERGY_KEY: "Ei",
    FORCE_KEY: "F",
    TOTAL_MAGMOM_KEY: "M",
    CHARGE_KEY: "Q",
    POLARIZATION_KEY: "pol",
    BORN_CHARGE_KEY: "Z*",
    DIELECTRIC_KEY: "\N{GREEK SMALL LETTER EPSILON}",
}
"""Short forms of field names in automatic names of metrics."""


def register_fields(
    graph_fields: Iterable[str] = (),
    node_fields: Iterable[str] = (),
    edge_fields: Iterable[str] = (),
    long_fields: Iterable[str] = (),
    cartesian_tensor_fields: dict[str, str] | None = None,
) -> None:
    """Register custom fields so that batching, splitting and conversion know their kind.

    Registering the same field with the same kind again changes nothing.

    Args:
        graph_fields: fields with one row a frame.
        node_fields: fields with one row an atom.
        edge_fields: fields with one row an edge.
        long_fields: which of them hold integers.
        cartesian_tensor_fields: field -> formula of a rank-2 Cartesian tensor, ``ij`` or ``ij=ji``.

    Raises:
        ValueError: a name has a dot, is already of another kind or formula, a formula is not of
            rank 2, or a built-in field would change. Nothing is registered then.
        TypeError: a bare string was given where a sequence of names belongs.
    """
    kinds = {"graph": graph_fields, "node": node_fields, "edge": edge_fields}
    tables = {"graph": _GRAPH_FIELDS, "node": _NODE_FIELDS, "edge": _EDGE_FIELDS}
    wanted: dict[str, str] = {}
    for kind, names in kinds.items():
        if isinstance(names, str):
            raise TypeError(f"{kind}_fields must be a sequence of names, got the string '{names}'")
        for name in names or ():
            if "." in name:
                raise ValueError(f"field name '{name}' must not contain a dot")
            known = _kind(name) or wanted.get(name)
            if name in _BUILT_IN and known is None:
                raise ValueError(f"field '{name}' is built in and belongs to no kind")
            if known not in (None, kind):
                raise ValueError(f"field '{name}' is already a {known} field, cannot be {kind} too")
            wanted[name] = kind
    if isinstance(long_fields, str):
        raise TypeError(f"long_fields must be a sequence of names, got the string '{long_fields}'")
    formulas = dict(cartesian_tensor_fields or {})
    for name, formula in formulas.items():
        if formula not in ("ij", "ij=ji"):
            raise ValueError(f"formula of '{name}' must be 'ij' or 'ij=ji', got '{formula}'")
        known = _CARTESIAN_TENSOR_FIELDS.get(name, formula)
        if name in _BUILT_IN and name not in _CARTESIAN_TENSOR_FIELDS:
            raise ValueError(f"field '{name}' is built in and no Cartesian tensor")
        if known != formula:
            raise ValueError(f"field '{name}' already has the formula '{known}', not '{formula}'")
    for name in {*formulas, *(long_fields or ())}:
        if name not in wanted and name not in _CONSTANTS.values() and _kind(name) is None:
            raise ValueError(f"field '{name}' must be registered as graph, node or edge field too")
    for name in long_fields or ():
        if name in _BUILT_IN and name not in _LONG_FIELDS:
            raise ValueError(f"field '{name}' is built in and does not hold integers")
    for name in formulas:
        if (wanted.get(name) or _kind(name)) == "edge":
            raise ValueError(f"'{name}' is an edge field; Cartesian tensors are of graphs or nodes")
    for name, kind in wanted.items():
        tables[kind].add(name)
    _LONG_FIELDS.update(long_fields or ())
    _CARTESIAN_TENSOR_FIELDS.update(formulas)


def _register_field_prefix(prefix: str) -> None:
    """Register every field a second time under its name with a prefix, as of the same kind.

    For copies of labels beside predictions. Calling it again changes nothing, and names that have
    the prefix get no second one.

    Args:
        prefix: e.g. ``original_dataset_``.

    Raises:
        ValueError: the prefix does not end with an underscore.
    """
    if not prefix.endswith("_"):
        raise ValueError(f"a prefix of field names must end with '_', got '{prefix}'")
    for table in (_GRAPH_FIELDS, _NODE_FIELDS, _EDGE_FIELDS, _LONG_FIELDS):
        table |= {f"{prefix}{name}" for name in table if not name.startswith(prefix)}
    for name, formula in list(_CARTESIAN_TENSOR_FIELDS.items()):
        if not name.startswith(prefix):
            _CARTESIAN_TENSOR_FIELDS[f"{prefix}{name}"] = formula


def deregister_fields(*names: str) -> None:
    """Forget custom fields.

    Raises:
        ValueError: a name is built in; all stay registered then.
    """
    built_in = [name for name in names if name in _BUILT_IN]
    if built_in:
        raise ValueError(f"'{built_in[0]}' is a built-in field and stays registered")
    for name in names:
        for table in (_GRAPH_FIELDS, _NODE_FIELDS, _EDGE_FIELDS, _LONG_FIELDS):
            table.discard(name)
        _CARTESIAN_TENSOR_FIELDS.pop(name, None)


def get_field_type(name: str, error_on_unregistered: bool = True) -> str | None:
    """Return ``"graph"``, ``"node"`` or ``"edge"``.

    Args:
        name: a field name.
        error_on_unregistered: raise for an unregistered field, or return None.

    Raises:
        KeyError: the field is not registered.
    """
    kind = _kind(name)
    if kind is None and error_on_unregistered:
        raise KeyError(f"Unregistered key {name}: register it with nequip.data.register_fields")
    return kind


def _kind(name: str) -> str | None:
    for kind, table in (("graph", _GRAPH_FIELDS), ("node", _NODE_FIELDS), ("edge", _EDGE_FIELDS)):
        if name in table:
            return kind
    return None


def is_long(name: str) -> bool:
    """Return whether the field holds int64 values."""
    return name in _LONG_FIELDS


def is_cartesian_tensor(name: str) -> bool:
    """Return whether the field holds a 3 x 3 tensor a row."""
    return name in _CARTESIAN_TENSOR_FIELDS


def field_abbreviation(name: str) -> str:
    """Return the short form of a field name that automatic metric names use."""
    return ABBREV.get(name, name)
