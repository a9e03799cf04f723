"""Transforms: ``frame -> frame`` modules that a data set or a calculator applies in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from nequip_core.cutoffs import PartialCutoffs, cutoff_table
from nequip_core.errors import ConfigError, DataError, UnknownSpeciesError, closest
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    ATOMIC_NUMBERS_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    VIRIAL_KEY,
    get_field_type,
)
from nequip_core.frames import Frame, num_frames
from nequip_core.neighbors import DEFAULT_BACKEND, compute_neighborlist_
from nequip_core.species import atomic_number, chemical_symbol

__all__ = [
    "AddNaNStressTransform",
    "ChemicalSpeciesToAtomTypeMapper",
    "NeighborListTransform",
    "StressSignFlipTransform",
    "VirialToStressTransform",
    "cell_volume",
    "prune_edges_",
]


def cell_volume(cell: torch.Tensor) -> torch.Tensor:
    """Return the volumes |a . (b x c)|, (F, 1, 1), length^3, of cells (F, 3, 3)."""
    return (cell[:, 0] * torch.linalg.cross(cell[:, 1], cell[:, 2])).sum(-1).abs().view(-1, 1, 1)


class ChemicalSpeciesToAtomTypeMapper(torch.nn.Module):
    """Add ``atom_types`` (N,) from ``atomic_numbers``.

    Args:
        model_type_names: the model's type names in order; a type's index is its place here.
        chemical_species_to_atom_type_map: chemical symbol -> type name; the default maps each
            type name that is a chemical symbol to itself.
        chemical_symbols: refused; the name that older configs used for `model_type_names`.

    Raises:
        ConfigError: names or map do not fit together.
    """

    def __init__(
        self,
        model_type_names: Sequence[str] | None = None,
        chemical_species_to_atom_type_map: Mapping[str, str] | None = None,
        chemical_symbols: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if chemical_symbols is not None:
            raise ConfigError(
                "ChemicalSpeciesToAtomTypeMapper takes 'model_type_names' (and, where type names "
                "are not chemical symbols, 'chemical_species_to_atom_type_map') in place of "
                "'chemical_symbols'"
            )
        if not model_type_names:
            raise ConfigError("ChemicalSpeciesToAtomTypeMapper needs 'model_type_names'")
        names = list(model_type_names)
        if chemical_species_to_atom_type_map is None:
            chemical_species_to_atom_type_map = {name: name for name in names}
        self.model_type_names = names
        # Row Z holds the type of atomic number Z; -1 marks "not a species of this model".
        table = torch.full((119,), -1, dtype=torch.int64)
        for symbol, name in chemical_species_to_atom_type_map.items():
            if name not in names:
                raise ConfigError(
                    f"chemical_species_to_atom_type_map sends {symbol} to the type '{name}', "
                    f"which is not one of {names}{closest(name, names)}"
                )
            table[atomic_number(symbol)] = names.index(name)
        self.register_buffer("lookup_table", table)
        self.lookup_table: torch.Tensor

    def forward(self, data: Frame) -> Frame:
        """Return the frame with ``atom_types``.

        Raises:
            DataError: the frame has no atomic numbers, or has atom types already.
            UnknownSpeciesError: a species is not mapped to any type.
        """
        if ATOM_TYPE_KEY in data:
            raise DataError("the frame has 'atom_types' already; remove the species mapping")
        if ATOMIC_NUMBERS_KEY not in data:
            raise DataError("the frame has no 'atomic_numbers' to map to atom types")
        numbers = data[ATOMIC_NUMBERS_KEY].view(-1)
        in_range = (numbers >= 0) & (numbers < len(self.lookup_table))
        types = self.lookup_table[torch.where(in_range, numbers, 0)]
        unknown = (types < 0) | ~in_range
        if unknown.any():
            species = sorted({chemical_symbol(int(z)) for z in numbers[unknown]})
            raise UnknownSpeciesError(
                f"species {', '.join(species)} (first at atom {int(unknown.nonzero()[0])}) "
                f"not known to the model, whose types are {self.model_type_names}"
            )
        data[ATOM_TYPE_KEY] = types
        return data


class NeighborListTransform(torch.nn.Module):
    """Add a neighbor list, see `nequip_core.neighbors`.

    Args:
        r_max: cutoff radius, length.
        per_edge_type_cutoff: shorter cutoffs of type pairs, see `nequip_core.cutoffs`; needs
            `type_names`, and ``atom_types`` in the data.
        type_names: the model's type names in order.
        backend: neighbor-list backend by name.
    """

    def __init__(
        self,
        r_max: float,
        per_edge_type_cutoff: PartialCutoffs | None = None,
        type_names: Sequence[str] | None = None,
        backend: str = DEFAULT_BACKEND,
    ) -> None:
        super().__init__()
        self.r_max = float(r_max)
        self.backend = backend
        table = None
        if per_edge_type_cutoff is not None:
            if type_names is None:
                raise ConfigError("per_edge_type_cutoff needs 'type_names' as well")
            rows = cutoff_table(per_edge_type_cutoff, type_names, self.r_max)
            table = torch.tensor(rows, dtype=torch.float64)
        self.register_buffer("cutoffs", table)
        self.cutoffs: torch.Tensor | None

    def forward(self, data: Frame) -> Frame:
        """Return the frame or batch with ``edge_index`` and, with a cell, ``edge_cell_shift``."""
        compute_neighborlist_(data, self.r_max, self.backend)
        return data if self.cutoffs is None else prune_edges_(data, self.cutoffs)


def prune_edges_(data: Frame, cutoffs: torch.Tensor) -> Frame:
    """Drop the edges longer than the cutoff of their type pair, in place.

    Args:
        data: a frame or batch with a neighbor list and ``atom_types``.
        cutoffs: (T, T) table ``[centre, neighbour]``, length.

    Raises:
        DataError: the data has no ``atom_types``.
    """
    if ATOM_TYPE_KEY not in data:
        raise DataError("per_edge_type_cutoff needs 'atom_types': map species to types first")
    centre, neighbour = data[EDGE_INDEX_KEY]
    vectors = data[POSITIONS_KEY][neighbour] - data[POSITIONS_KEY][centre]
    if EDGE_CELL_SHIFT_KEY in data:
        shifts = data[EDGE_CELL_SHIFT_KEY]
        cells = data[CELL_KEY].view(-1, 3, 3)
        frame = data["batch"][centre] if num_frames(data) > 1 else torch.zeros_like(centre)
        vectors = vectors + torch.einsum("ei,eij->ej", shifts, cells[frame])
    types = data[ATOM_TYPE_KEY].view(-1)
    keep = vectors.norm(dim=-1) <= cutoffs.to(vectors.device)[types[centre], types[neighbour]]
    data[EDGE_INDEX_KEY] = data[EDGE_INDEX_KEY][:, keep]
    for key in list(data):
        if get_field_type(key, error_on_unregistered=False) == "edge":
            data[key] = data[key][keep]
    return data


class VirialToStressTransform(torch.nn.Module):
    """Add ``stress`` = -``virial`` / volume, (F, 3, 3)."""

    def forward(self, data: Frame) -> Frame:
        """Return the frame with ``stress``.

        Raises:
            DataError: virial or cell are missing.
        """
        if VIRIAL_KEY not in data or CELL_KEY not in data:
            raise DataError(f"stress needs 'virial' and 'cell', found {sorted(data)}")
        data[STRESS_KEY] = -data[VIRIAL_KEY] / cell_volume(data[CELL_KEY])
        return data


class StressSignFlipTransform(torch.nn.Module):
    """Flip the sign of ``stress``, for data in the convention of VASP."""

    def forward(self, data: Frame) -> Frame:
        """Return the frame with its stress negated.

        Raises:
            DataError: there is no stress.
        """
        if STRESS_KEY not in data:
            raise DataError(f"no 'stress' to flip the sign of, found {sorted(data)}")
        data[STRESS_KEY] = -data[STRESS_KEY]
        return data


class AddNaNStressTransform(torch.nn.Module):
    """Add a ``stress`` of NaN, (F, 3, 3), where a frame has none: "no label here"."""

    def forward(self, data: Frame) -> Frame:
        """Return the frame with a stress entry."""
        if STRESS_KEY not in data:
            shape = (num_frames(data), 3, 3)
            data[STRESS_KEY] = torch.full(shape, torch.nan, dtype=torch.float64)
        return data
