"""Statistics of large public data sets, for models that are trained on them."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from nequip_core.errors import ConfigError, closest

__all__ = ["DATASETS", "big_dataset_stats"]

DATASETS = ("MPTrj", "MatPES", "OMat")


def big_dataset_stats(name: str, cutoff_radius: float | str) -> dict[str, Any]:
    """Return the statistics of a data set, as the training data's own are named.

    Args:
        name: MPTrj, MatPES or OMat.
        cutoff_radius: of the neighbor list, Angstrom; there are numbers for 4.5, 5.0, ..., 8.0.

    Returns:
        ``model_type_names`` and ``chemical_species`` (89 symbols), ``isolated_atom_energies``
        (by symbol, eV), ``per_atom_energy_mean`` (eV), ``forces_rms`` (eV/Angstrom),
        ``per_type_forces_rms`` (by symbol), ``num_neighbors_mean`` and
        ``per_type_num_neighbors_mean`` (by symbol).

    Raises:
        ConfigError: there is no such data set, or there are no numbers for the cutoff.
    """
    if name not in DATASETS:
        raise ConfigError(
            f"big_dataset_stats has no data set '{name}'{closest(str(name), DATASETS)} (it has "
            f"{', '.join(DATASETS)})"
        )
    numbers = json.loads(files(__name__).joinpath(f"{name}.json").read_text())
    cutoffs = {float(key): key for key in numbers["num_neighbors_mean"]}
    try:
        key = cutoffs[float(cutoff_radius)]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"big_dataset_stats of {name} has numbers for the cutoff radii "
            f"{', '.join(cutoffs.values())}, not for {cutoff_radius!r}"
        ) from error
    species = numbers["species"]

    def by_symbol(values: list[float]) -> dict[str, float]:
        return dict(zip(species, values, strict=True))

    return {
        "model_type_names": list(species),
        "chemical_species": list(species),
        "isolated_atom_energies": by_symbol(numbers["isolated_atom_energies"]),
        "per_atom_energy_mean": numbers["per_atom_energy_mean"],
        "forces_rms": numbers["forces_rms"],
        "per_type_forces_rms": by_symbol(numbers["per_type_forces_rms"]),
        "num_neighbors_mean": numbers["num_neighbors_mean"][key],
        "per_type_num_neighbors_mean": by_symbol(numbers["per_type_num_neighbors_mean"][key]),
    }
