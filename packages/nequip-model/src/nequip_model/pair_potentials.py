"""Pair potentials: as an addition to a network, and as a model of their own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.cutoffs import PartialCutoffs, cutoff_table
from nequip_core.errors import ConfigError
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    EDGE_ATTRS_KEY,
    EDGE_CUTOFF_KEY,
    EDGE_EMBEDDING_KEY,
    EDGE_INDEX_KEY,
    EDGE_LENGTH_KEY,
    EDGE_VECTORS_KEY,
    NODE_ATTRS_KEY,
    NODE_FEATURES_KEY,
    NORM_LENGTH_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
)
from nequip_core.instantiate import instantiate
from nequip_model.arguments import require_cutoff
from nequip_model.builder import model_builder
from nequip_model.nn.embedding import TypeEmbedding
from nequip_model.nn.layout import Layout, irrep_name

__all__ = ["ZBLPairPotential", "irreps_before_potential", "pair_potential_module"]


def pair_potential_module(
    config: Mapping[str, Any], type_names: Sequence[str], irreps_in: Mapping[str, str | None]
) -> torch.nn.Module:
    """Return the module that a config's ``_target_`` names.

    It gets ``type_names`` and ``irreps_in`` besides the arguments of the config, and adds to
    ``atomic_energy``.

    Args:
        config: a mapping with ``_target_``, e.g. ``nequip.nn.pair_potential.ZBL``.
        type_names: the T type names in order.
        irreps_in: irreps of the fields that are there before it, by name.

    Raises:
        ConfigError: the target does not exist, refuses its arguments, or is not a module.
    """
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise ConfigError(
            "pair_potential must be a mapping with _target_ (nequip.nn.pair_potential.ZBL, say) "
            f"and its arguments, got {config!r}"
        )
    target = config["_target_"]
    try:
        module = instantiate(config, type_names=list(type_names), irreps_in=dict(irreps_in))
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"pair_potential {target}: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(
            f"pair_potential {target} must make a torch.nn.Module, got {type(module).__name__}"
        )
    return module


def irreps_before_potential(
    embedding: TypeEmbedding, features: Layout, num_bessels: int, l_max: int
) -> dict[str, str | None]:
    """Return the irreps of the fields that a network has before its pair potential, by name.

    Args:
        embedding: of types and graph fields.
        features: layout of the last features.
        num_bessels: B.
        l_max: degree of the edge harmonics.
    """
    return {
        POSITIONS_KEY: "1x1o",
        EDGE_INDEX_KEY: None,
        ATOM_TYPE_KEY: None,
        **dict.fromkeys(embedding.input_fields),
        NODE_ATTRS_KEY: f"{embedding.num_features}x0e",
        NODE_FEATURES_KEY: str(features),
        EDGE_VECTORS_KEY: "1x1o",
        EDGE_LENGTH_KEY: "1x0e",
        NORM_LENGTH_KEY: "1x0e",
        EDGE_CUTOFF_KEY: "1x0e",
        EDGE_EMBEDDING_KEY: f"{num_bessels}x0e",
        EDGE_ATTRS_KEY: " + ".join(f"1x{irrep_name(l, (-1) ** l)}" for l in range(l_max + 1)),
        PER_ATOM_ENERGY_KEY: "1x0e",
    }


@model_builder(architecture_version=1)
def ZBLPairPotential(  # noqa: N802 - documented name, used like a class in configs
    *,
    type_names: Sequence[str],
    r_max: float,
    chemical_species: Sequence[str],
    units: str,
    polynomial_cutoff_p: float = 6,
    per_edge_type_cutoff: PartialCutoffs | None = None,
) -> torch.nn.Module:
    """Build a model that is nothing but the repulsion of screened nuclei.

    Args:
        type_names: the T type names in order.
        r_max: cutoff radius, Angstrom.
        chemical_species: the T chemical symbols of the types, in the same order.
        units: ``metal`` (energies in eV) or ``real`` (kcal/mol).
        polynomial_cutoff_p: order of the envelope, at least 2.
        per_edge_type_cutoff: shorter cutoffs of type pairs, see `nequip_core.cutoffs`.

    Raises:
        ConfigError: an argument is unknown, missing or out of range.
    """
    from nequip_model.nn.derivatives import ForceStressOutput
    from nequip_model.nn.energy import TotalEnergy
    from nequip_model.nn.geometry import EdgeGeometry
    from nequip_model.nn.pair_potential import ZBL

    require_cutoff(r_max, polynomial_cutoff_p)
    cutoffs = None
    if per_edge_type_cutoff is not None:
        cutoffs = cutoff_table(per_edge_type_cutoff, type_names, r_max)
    try:
        potential = ZBL(type_names, chemical_species, units, polynomial_cutoff_p)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"ZBLPairPotential: {error}") from error
    modules = OrderedDict(
        geometry=EdgeGeometry(r_max, cutoffs),
        pair_potential=potential,
        total_energy=TotalEnergy(),
    )
    return ForceStressOutput(torch.nn.Sequential(modules))
