"""ASE ``Atoms`` to frames and back. Needs the extra ``nequip-core[ase]``."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nequip_core.errors import DataError, closest
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    ATOMIC_NUMBERS_KEY,
    CELL_KEY,
    FORCE_KEY,
    PBC_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
    get_field_type,
    is_cartesian_tensor,
)
from nequip_core.frames import Frame, from_dict, unbatched
from nequip_core.species import atomic_number

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["asked_keys", "from_ase", "label_keys", "misspelled_key", "to_ase"]

_NAMES = {"forces": FORCE_KEY, "energy": TOTAL_ENERGY_KEY, "energies": PER_ATOM_ENERGY_KEY}
# What to_ase carries anyway, so that it cannot be asked for a second time.
_CARRIED = {
    POSITIONS_KEY,
    CELL_KEY,
    PBC_KEY,
    ATOMIC_NUMBERS_KEY,
    TOTAL_ENERGY_KEY,
    FORCE_KEY,
    PER_ATOM_ENERGY_KEY,
    STRESS_KEY,
}
_GEOMETRY = {"numbers", "positions", "pbc", "cell", "pos"}
# Symmetric tensors: ASE's Voigt order xx yy zz yz xz xy as rows of a 3 x 3 matrix.
_VOIGT_TO_FULL = [0, 5, 4, 5, 1, 3, 4, 3, 2]
_FULL_TO_VOIGT = [0, 4, 8, 5, 2, 1]


def from_ase(
    atoms: Atoms,
    key_mapping: Mapping[str, str] | None = None,
    include_keys: Sequence[str] | None = None,
    exclude_keys: Sequence[str] | None = None,
) -> Frame:
    """Return the frame of an ``Atoms``: geometry, and the labels it carries.

    Labels are looked up in ``atoms.arrays``, then ``atoms.info``, then the results of a
    single-point calculator; a later place wins. Looked up are ASE's own properties, and the keys
    of `include_keys` and `key_mapping`. A structure may lack any of them; but where it has instead
    a label of nearly the same name that nothing asks for, that is taken for a mistake.

    Args:
        atoms: one structure; energy, length and so on in its own units.
        key_mapping: key in `atoms` -> field name.
        include_keys: further keys to take, under their own names.
        exclude_keys: keys to leave out.

    Raises:
        DataError: a periodic structure has no cell, a label has an unfit shape, or a key is absent
            and one of nearly the same name is there.
    """
    from ase.calculators.calculator import all_properties

    names = {**_NAMES, **(key_mapping or {})}
    wanted = (set(all_properties) | set(include_keys or ()) | set(key_mapping or ())) - _GEOMETRY
    wanted -= set(exclude_keys or ())
    labels: dict[str, Any] = {}
    asked = asked_keys(key_mapping, include_keys, exclude_keys)
    if fault := misspelled_key(asked, label_keys(atoms), exclude_keys or ()):
        raise DataError(f"the structure {fault}")
    for place in _places(atoms):
        for key in wanted & set(place):
            if place[key] is not None:
                labels[names.get(key, key)] = place[key]
    asked_for = {names.get(key, key) for key in asked}
    data: dict[str, Any] = {}
    for key, value in labels.items():
        if get_field_type(key, error_on_unregistered=False) is not None:
            data[key] = _label(key, value, len(atoms))
        elif key in asked_for:
            raise DataError(
                f"'{key}' is not a registered field: register it with nequip.data.register_fields"
            )
    cell = np.asarray(atoms.cell, dtype=np.float64)
    if np.asarray(atoms.pbc).any() and not cell.any():
        raise DataError("the structure is periodic but its cell is zero")
    data[POSITIONS_KEY] = np.asarray(atoms.positions, dtype=np.float64)
    data[ATOMIC_NUMBERS_KEY] = np.asarray(atoms.numbers)
    data[CELL_KEY] = cell
    data[PBC_KEY] = np.asarray(atoms.pbc)
    return from_dict(data)


def _places(atoms: Atoms) -> list[Mapping[str, Any]]:
    """Return where labels are looked up; a calculator that would compute is left alone."""
    from ase.calculators.singlepoint import SinglePointCalculator, SinglePointDFTCalculator

    places: list[Mapping[str, Any]] = [atoms.arrays, atoms.info]
    if isinstance(atoms.calc, SinglePointCalculator | SinglePointDFTCalculator):
        places.append(atoms.calc.results)
    return places


def label_keys(atoms: Atoms) -> set[str]:
    """Return the keys of all labels that a structure carries."""
    return {key for place in _places(atoms) for key in place} - _GEOMETRY


def asked_keys(
    key_mapping: Mapping[str, str] | None,
    include_keys: Sequence[str] | None,
    exclude_keys: Sequence[str] | None,
) -> set[str]:
    """Return the keys that these arguments of `from_ase` ask for by name."""
    return {*(include_keys or ()), *(key_mapping or ())} - {*(exclude_keys or ())} - _GEOMETRY


def misspelled_key(asked: set[str], present: set[str], excluded: Iterable[str]) -> str:
    """Return what is wrong where an absent key has nearly the name of an unused one, else "".

    Args:
        asked: keys asked for by name.
        present: keys that are there.
        excluded: keys that are not wanted, so that they are no candidates.
    """
    absent = sorted(asked - present)
    if not absent:
        return ""
    from ase.calculators.calculator import all_properties

    unused = sorted(present - asked - {*all_properties, *excluded})
    for key in absent:
        # Only nearly equal names: 'my_force' for 'my_forces', not 'dft_energy' for 'mp2_energy'.
        if near := difflib.get_close_matches(key, unused, n=1, cutoff=0.85):
            return (
                f"has no '{key}', but '{near[0]}' that nothing asks for; did you mean that? If "
                f"not, name '{near[0]}' in exclude_keys"
            )
    return ""


def _label(key: str, value: Any, atoms: int) -> np.ndarray:
    """Return a label with its row axis: (1, ...) for a graph field, (N, ...) for a node field."""
    array = np.asarray(value)
    rows = 1 if get_field_type(key) == "graph" else atoms
    if array.dtype.kind not in "fiub":
        raise DataError(f"'{key}' of the structure is not numeric but {array.dtype}")
    if array.size % rows:
        raise DataError(f"'{key}' has shape {array.shape}, which does not fit {rows} rows")
    if not is_cartesian_tensor(key):
        return array.reshape(rows, -1) if get_field_type(key) == "graph" else array
    flat = array.reshape(rows, -1)
    if flat.shape[1] == 6:
        flat = flat[:, _VOIGT_TO_FULL]
    if flat.shape[1] != 9:
        raise DataError(f"'{key}' must have 6 or 9 numbers a row, got shape {array.shape}")
    return flat.reshape(rows, 3, 3)


def to_ase(
    data: Frame,
    chemical_symbols: Sequence[str] | None = None,
    extra_fields: Sequence[str] | None = None,
) -> list[Atoms]:
    """Return one ``Atoms`` a frame, with energy, forces and stress in a single-point calculator.

    Where neither atomic numbers nor `chemical_symbols` are there, the type's index stands for the
    atomic number, with a warning.

    Args:
        data: a frame or batch.
        chemical_symbols: symbol of each atom type, used where there are no atomic numbers.
        extra_fields: further fields to carry: node fields into ``arrays``, others into ``info``.

    Raises:
        UnknownSpeciesError: a symbol is not one.
        DataError: there are no species at all, a type has no symbol, or an extra field is missing,
            of no kind, or one that is carried anyway.
    """
    extra = list(extra_fields or ())
    for key in extra:
        if key in _CARRIED:
            raise DataError(f"'{key}' is carried anyway; leave it out of extra_fields")
        if key not in data:
            raise DataError(f"there is no '{key}' to carry{closest(key, list(data))}")
        if get_field_type(key, error_on_unregistered=False) is None:
            raise DataError(
                f"'{key}' is not a registered field: register it with nequip.data.register_fields"
            )
    return [_frame_to_ase(frame, chemical_symbols, extra) for frame in unbatched(data)]


def _frame_to_ase(
    frame: Frame, chemical_symbols: Sequence[str] | None, extra_fields: Sequence[str]
) -> Atoms:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    arrays = {key: value.detach().cpu().numpy() for key, value in frame.items()}
    if ATOMIC_NUMBERS_KEY in arrays:
        numbers = arrays[ATOMIC_NUMBERS_KEY].reshape(-1)
    elif chemical_symbols is not None and ATOM_TYPE_KEY in arrays:
        by_type = [atomic_number(symbol) for symbol in chemical_symbols]
        types = arrays[ATOM_TYPE_KEY].reshape(-1)
        if types.size and types.max() >= len(by_type):
            raise DataError(
                f"the data has the atom type {types.max()}, but 'chemical_symbols' names only "
                f"{len(by_type)} types: {list(chemical_symbols)}"
            )
        numbers = np.asarray(by_type, dtype=np.int64)[types]
    elif ATOM_TYPE_KEY in arrays:
        warnings.warn(
            "the data has no 'atomic_numbers' and no 'chemical_symbols' were given: the index of "
            "each atom's type stands for its atomic number",
            stacklevel=4,
        )
        numbers = arrays[ATOM_TYPE_KEY].reshape(-1)
    else:
        raise DataError("to_ase needs 'atomic_numbers' or 'atom_types' in the data")
    atoms = Atoms(
        numbers=numbers,
        positions=arrays[POSITIONS_KEY],
        cell=arrays[CELL_KEY].reshape(3, 3) if CELL_KEY in arrays else None,
        pbc=arrays[PBC_KEY].reshape(3) if PBC_KEY in arrays else False,
    )
    results: dict[str, Any] = {}
    if TOTAL_ENERGY_KEY in arrays:
        results["energy"] = float(arrays[TOTAL_ENERGY_KEY].reshape(-1)[0])
    if PER_ATOM_ENERGY_KEY in arrays:
        results["energies"] = arrays[PER_ATOM_ENERGY_KEY].reshape(-1)
    if FORCE_KEY in arrays:
        results["forces"] = arrays[FORCE_KEY]
    if STRESS_KEY in arrays:
        results["stress"] = arrays[STRESS_KEY].reshape(9)[_FULL_TO_VOIGT]
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    for key in extra_fields:
        if get_field_type(key) == "node":
            atoms.arrays[key] = arrays[key].reshape(len(atoms), -1)
        else:
            atoms.info[key] = arrays[key].reshape(-1)
    return atoms
