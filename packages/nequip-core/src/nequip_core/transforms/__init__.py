"""Transforms: ``frame -> frame`` modules that a data set or a calculator applies in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from nequip_core.errors import ConfigError, DataError, UnknownSpeciesError, closest
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    ATOMIC_NUMBERS_KEY,
    BATCH_KEY,
    CELL_KEY,
    DATASET_KEY,
    NUM_NODES_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    VIRIAL_KEY,
)
from nequip_core.frames import Frame, num_frames
from nequip_core.species import atomic_number, chemical_symbol
from nequip_core.transforms.cells import NonPeriodicCellTransform, cell_volume
from nequip_core.transforms.neighbor_lists import (
    NeighborListPruneTransform,
    NeighborListTransform,
    SortedNeighborListTransform,
    prune_edges_,
)

__all__ = [
    "AddNaNStressTransform",
    "ChemicalSpeciesToAtomTypeMapper",
    "DatasetIndexTransform",
    "NeighborListPruneTransform",
    "NeighborListTransform",
    "NonPeriodicCellTransform",
    "SortedNeighborListTransform",
    "StressSignFlipTransform",
    "VirialToStressTransform",
    "cell_volume",
    "prune_edges_",
]


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
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ConfigError(
                f"model_type_names must be unique, found {repeated} more than once in {names}"
            )
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
            first = int(unknown.nonzero()[0])
            where = f"atom {first}"
            if num_frames(data) > 1:
                frame = int(data[BATCH_KEY][first])
                before = int(data[NUM_NODES_KEY][:frame].sum())
                where = f"atom {first - before} of frame {frame}"
            raise UnknownSpeciesError(
                f"species {', '.join(species)} (first at {where}) "
                f"not known to the model, whose types are {self.model_type_names}"
            )
        data[ATOM_TYPE_KEY] = types
        return data


class VirialToStressTransform(torch.nn.Module):
    """Add ``stress`` = -``virial`` / volume, (F, 3, 3)."""

    def forward(self, data: Frame) -> Frame:
        """Return the frame with ``stress``.

        Raises:
            DataError: virial or cell are missing, or a frame with a virial has no volume.
        """
        if VIRIAL_KEY not in data or CELL_KEY not in data:
            raise DataError(f"stress needs 'virial' and 'cell', found {sorted(data)}")
        volume = cell_volume(data[CELL_KEY])
        # A label of NaN says "no label here", with a cell or without.
        labelled = ~data[VIRIAL_KEY].isnan().flatten(1).all(1)
        wrong = (volume.reshape(-1) == 0.0) & labelled
        if bool(wrong.any()):
            frame = int(wrong.nonzero()[0])
            raise DataError(
                f"frame {frame} has a virial but a cell without volume: "
                f"{data[CELL_KEY][frame].tolist()}; give it a cell, or leave the virial out "
                "(AddNaNStressTransform marks frames without a stress)"
            )
        data[STRESS_KEY] = -data[VIRIAL_KEY] / volume
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
            data[STRESS_KEY] = torch.full(
                shape, torch.nan, dtype=torch.float64, device=data[POSITIONS_KEY].device
            )
        return data


class DatasetIndexTransform(torch.nn.Module):
    """Add ``dataset`` (F, 1), int64: the number of the data set that a frame is from.

    Args:
        dataset_index: the number.
    """

    def __init__(self, dataset_index: int) -> None:
        super().__init__()
        self.dataset_index = dataset_index

    def forward(self, data: Frame) -> Frame:
        """Return the frame with its data set's number."""
        shape = (num_frames(data), 1)
        data[DATASET_KEY] = torch.full(
            shape, self.dataset_index, dtype=torch.int64, device=data[POSITIONS_KEY].device
        )
        return data
