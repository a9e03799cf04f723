"""From a bare structure to the input of a model: what every engine's adapter needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nequip_core.errors import ConfigError
from nequip_core.frames import Frame
from nequip_core.neighbors import DEFAULT_BACKEND
from nequip_core.species import CHEMICAL_SYMBOLS
from nequip_core.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform

__all__ = ["Transform", "input_transforms", "species_map"]

Transform = Callable[[Frame], Frame]


def species_map(
    type_names: Sequence[str], chemical_species_to_atom_type_map: Mapping[str, str] | bool | None
) -> dict[str, str]:
    """Return chemical symbol -> type name.

    Args:
        type_names: the model's type names in order.
        chemical_species_to_atom_type_map: as given by a user; None or True says that the type
            names are the chemical symbols themselves.

    Raises:
        ConfigError: a map is needed, because type names are not chemical symbols, or what was
            given is no map.
    """
    given = chemical_species_to_atom_type_map
    if isinstance(given, Mapping):
        return dict(given)
    if given is not None and given is not True:
        raise ConfigError(
            "chemical_species_to_atom_type_map must be a dictionary from chemical symbol to type "
            f"name, or True where the two are the same; got {given!r}"
        )
    odd = [name for name in type_names if name not in CHEMICAL_SYMBOLS[1:]]
    if odd:
        example = {"O": odd[0]}
        raise ConfigError(
            f"the model's type names {list(type_names)} are not all chemical symbols ({odd} are "
            "not), so it must be said which species is which type: give "
            f"chemical_species_to_atom_type_map, for example {example}"
        )
    return {name: name for name in type_names}


def input_transforms(
    type_names: Sequence[str],
    r_max: float,
    cutoffs: Sequence[Sequence[float]] | None = None,
    chemical_species_to_atom_type_map: Mapping[str, str] | bool | None = None,
    neighborlist_backend: str = DEFAULT_BACKEND,
    neighborlist_skin: float = 0.0,
) -> list[Transform]:
    """Return the transforms that add atom types and a neighbor list.

    Args:
        type_names: the model's T type names in order.
        r_max: the model's cutoff radius, length.
        cutoffs: T x T table of shorter cutoffs, row = centre type, length; None for r_max.
        chemical_species_to_atom_type_map: see `species_map`.
        neighborlist_backend: name of a backend, see `nequip_core.neighbors`.
        neighborlist_skin: how much further than r_max a list reaches that is kept from one
            structure to the next, in the length unit of r_max.

    Raises:
        ConfigError: species and types do not fit together, or the skin is negative.
    """
    mapping = species_map(type_names, chemical_species_to_atom_type_map)
    partial = None
    if cutoffs is not None:
        partial = {
            centre: dict(zip(type_names, row, strict=True))
            for centre, row in zip(type_names, cutoffs, strict=True)
        }
    return [
        ChemicalSpeciesToAtomTypeMapper(type_names, mapping),
        NeighborListTransform(r_max, partial, type_names, neighborlist_backend, neighborlist_skin),
    ]
