"""Builders of Allegro models: by degree and parity, or by irreps; energies, or forces as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from allegro.nn import (
    Allegro_Module,
    EdgewiseReduce,
    TwoBodySphericalHarmonicTensorEmbed,
)
from nequip_core.cutoffs import PartialCutoffs
from nequip_core.errors import ConfigError
from nequip_core.fields import (
    EDGE_EMBEDDING_KEY,
    EDGE_ENERGY_KEY,
    EDGE_FEATURES_KEY,
    PER_ATOM_ENERGY_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_core.instantiate import instantiate
from nequip_model.arguments import require_cutoff, require_integer
from nequip_model.builder import model_builder
from nequip_model.graph_modules.atomwise import AtomwiseReduce, PerTypeScaleShift
from nequip_model.graph_modules.derivatives import ForceStressOutput
from nequip_model.graph_modules.edges import (
    AddRadialCutoffToData,
    EdgeLengthNormalizer,
    PolynomialCutoff,
)
from nequip_model.graph_modules.mixin import SequentialGraphNetwork
from nequip_model.graph_modules.mlp import ScalarMLP
from nequip_model.irreps import parse_irreps
from nequip_model.pair_potentials import pair_potential_module
from nequip_model.per_type import neighbors_by_type

__all__ = ["AllegroEnergyModel", "AllegroModel", "FullAllegroEnergyModel", "FullAllegroModel"]

PerType = float | Mapping[str, float] | None

_PARITIES = {True: (1, -1), False: (1,)}


@model_builder(architecture_version=1)
def FullAllegroEnergyModel(  # noqa: N802 - documented name, used like a class in configs
    *,
    type_names: Sequence[str],
    r_max: float,
    irreps_edge_sh: int | str,
    tensor_track_allowed_irreps: str,
    radial_chemical_embed: Mapping[str, Any],
    radial_chemical_embed_dim: int | None = None,
    per_edge_type_cutoff: PartialCutoffs | None = None,
    scalar_embed_mlp_hidden_layers_depth: int = 1,
    scalar_embed_mlp_hidden_layers_width: int = 64,
    scalar_embed_mlp_nonlinearity: str | None = "silu",
    num_layers: int = 2,
    num_scalar_features: int = 64,
    num_tensor_features: int = 16,
    allegro_mlp_hidden_layers_depth: int = 1,
    allegro_mlp_hidden_layers_width: int = 64,
    allegro_mlp_nonlinearity: str | None = "silu",
    tp_path_channel_coupling: bool = True,
    readout_mlp_hidden_layers_depth: int = 1,
    readout_mlp_hidden_layers_width: int = 32,
    readout_mlp_nonlinearity: str | None = "silu",
    avg_num_neighbors: PerType = None,
    weight_individual_irreps: bool = True,
    per_type_energy_scales: PerType = None,
    per_type_energy_shifts: PerType = None,
    per_type_energy_scales_trainable: bool = False,
    per_type_energy_shifts_trainable: bool = False,
    pair_potential: Mapping[str, Any] | None = None,
    forward_normalize: bool = True,
) -> torch.nn.Module:
    """Build an Allegro network that predicts energies, with tensor features of given irreps.

    Args:
        type_names: the T type names in order.
        r_max: cutoff radius, length.
        irreps_edge_sh: edge harmonics: their highest degree, or irreps with one copy each.
        tensor_track_allowed_irreps: irreps that tensor features may have, ``0e + 1o + 1e`` say;
            even scalars first.
        radial_chemical_embed: config of the embedding of lengths and types, e.g. ``{_target_:
            allegro.nn.TwoBodyBesselScalarEmbed, num_bessels: 8}``.
        radial_chemical_embed_dim: scalars that it makes; default `num_scalar_features`. Even for
            `TwoBodyBesselScalarEmbed`.
        per_edge_type_cutoff: shorter cutoffs of type pairs, see `nequip_core.cutoffs`.
        scalar_embed_mlp_hidden_layers_depth: hidden layers of the network after the embedding.
        scalar_embed_mlp_hidden_layers_width: width of those.
        scalar_embed_mlp_nonlinearity: nonlinearity of those, or None.
        num_layers: number of layers.
        num_scalar_features: scalars of an edge.
        num_tensor_features: channels of an edge's tensor features.
        allegro_mlp_hidden_layers_depth: hidden layers of each layer's network.
        allegro_mlp_hidden_layers_width: width of those.
        allegro_mlp_nonlinearity: nonlinearity of those, or None.
        tp_path_channel_coupling: tensor product weights for each path and channel, or one a path.
        readout_mlp_hidden_layers_depth: hidden layers of the readout.
        readout_mlp_hidden_layers_width: width of those.
        readout_mlp_nonlinearity: nonlinearity of those, or None.
        avg_num_neighbors: average number of neighbours, overall or by type; required.
        weight_individual_irreps: environment weights for each irrep of a channel, or one for all.
        per_type_energy_scales: scale of the atomic energies, energy, overall or by type.
        per_type_energy_shifts: shift of the atomic energies, energy, overall or by type.
        per_type_energy_scales_trainable: make the scales trainable.
        per_type_energy_shifts_trainable: make the shifts trainable.
        pair_potential: config of a module that adds to the atomic energies, e.g. ``{_target_:
            nequip.nn.pair_potential.ZBL, chemical_species: [H, C], units: metal}``.
        forward_normalize: weights keep the variance of the forward or of the backward pass.

    Raises:
        ConfigError: an argument is unknown, missing or out of range.
    """
    given = locals()
    _check_sizes(given)
    require_cutoff(r_max, 2)
    neighbors_by_type(avg_num_neighbors, type_names)
    allowed = [(l, p) for _, l, p in parse_irreps(tensor_track_allowed_irreps).blocks]
    modules: dict[str, Any] = {}

    def irreps() -> dict[str, Any]:
        """Return the irreps of the fields that are there by now."""
        return dict(list(modules.values())[-1].irreps_out)

    try:
        modules["edge_norm"] = EdgeLengthNormalizer(r_max, type_names, per_edge_type_cutoff)
        modules["radial_chemical_embed"] = _embedding(
            radial_chemical_embed,
            type_names=list(type_names),
            module_output_dim=radial_chemical_embed_dim or num_scalar_features,
            forward_weight_init=forward_normalize,
            scalar_embed_field=EDGE_EMBEDDING_KEY,
            irreps_in=irreps(),
        )
        modules["scalar_embed_mlp"] = ScalarMLP(
            num_scalar_features,
            **_network(given, "scalar_embed_mlp"),
            field=EDGE_EMBEDDING_KEY,
            irreps_in=irreps(),
        )
        modules["tensor_embed"] = TwoBodySphericalHarmonicTensorEmbed(
            irreps_edge_sh, num_tensor_features, forward_normalize, irreps_in=irreps()
        )
        modules["allegro"] = Allegro_Module(
            num_layers,
            num_scalar_features,
            num_tensor_features,
            allowed,
            avg_num_neighbors,
            type_names,
            tp_path_channel_coupling,
            weight_individual_irreps,
            latent_kwargs=_network(given, "allegro_mlp"),
            irreps_in=irreps(),
        )
        modules["edge_readout"] = ScalarMLP(
            1,
            **_network(given, "readout_mlp"),
            field=EDGE_FEATURES_KEY,
            out_field=EDGE_ENERGY_KEY,
            irreps_in=irreps(),
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"Allegro cannot be built: {error}") from error
    modules["edge_eng_sum"] = EdgewiseReduce(
        EDGE_ENERGY_KEY, PER_ATOM_ENERGY_KEY, avg_num_neighbors, type_names, irreps_in=irreps()
    )
    modules["per_type_energy_scale_shift"] = PerTypeScaleShift(
        type_names,
        PER_ATOM_ENERGY_KEY,
        scales=per_type_energy_scales,
        shifts=per_type_energy_shifts,
        scales_trainable=per_type_energy_scales_trainable,
        shifts_trainable=per_type_energy_shifts_trainable,
        irreps_in=irreps(),
    )
    if pair_potential is not None:
        if "edge_cutoff" not in irreps():
            modules["cutoff"] = AddRadialCutoffToData(PolynomialCutoff(6), irreps_in=irreps())
        modules["pair_potential"] = pair_potential_module(pair_potential, type_names, irreps())
    modules["total_energy_sum"] = AtomwiseReduce(
        PER_ATOM_ENERGY_KEY, TOTAL_ENERGY_KEY, irreps_in=irreps()
    )
    return SequentialGraphNetwork(modules)


@model_builder(extends=FullAllegroEnergyModel, architecture_version=1)
def FullAllegroModel(  # noqa: N802 - documented name, used like a class in configs
    *, do_derivatives: bool = True, **kwargs: Any
) -> torch.nn.Module:
    """Build `FullAllegroEnergyModel` with forces, virial and stress.

    Args:
        do_derivatives: forces, virial and stress besides energies.
        **kwargs: see `FullAllegroEnergyModel`.

    Raises:
        ConfigError: an argument is unknown, missing or out of range.
    """
    return ForceStressOutput(FullAllegroEnergyModel(**kwargs), do_derivatives)


@model_builder(
    extends=FullAllegroEnergyModel,
    replaces=("irreps_edge_sh", "tensor_track_allowed_irreps"),
    architecture_version=1,
)
def AllegroEnergyModel(  # noqa: N802 - documented name, used like a class in configs
    *, l_max: int, parity: bool = True, **kwargs: Any
) -> torch.nn.Module:
    """Build an Allegro network that predicts energies.

    Besides the arguments below it takes ``seed`` (int), ``model_dtype`` (``"float32"`` or
    ``"float64"``) and those of `FullAllegroEnergyModel` that are not made from these.

    Args:
        l_max: highest degree of the edge harmonics and of the tensor features.
        parity: tensor features of both parities, or only of that of the harmonics, (-1)^l.
        **kwargs: see `FullAllegroEnergyModel`.

    Raises:
        ConfigError: an argument is unknown, missing or out of range.

    Source: Musaelian et al., Nat. Commun. 14, 579 (2023), doi:10.1038/s41467-023-36329-y.
    """
    require_integer("l_max", l_max, 0)
    if not isinstance(parity, bool):
        raise ConfigError(f"parity must be true or false, got {parity!r}")
    letters = {1: "e", -1: "o"}
    # With both parities, of each degree the even one first.
    allowed = [
        f"1x{l}{letters[p if parity else (-1) ** l]}"
        for l in range(l_max + 1)
        for p in _PARITIES[parity]
    ]
    return FullAllegroEnergyModel(
        irreps_edge_sh=l_max, tensor_track_allowed_irreps=" + ".join(allowed), **kwargs
    )


@model_builder(extends=AllegroEnergyModel, architecture_version=1)
def AllegroModel(  # noqa: N802 - documented name, used like a class in configs
    *, do_derivatives: bool = True, **kwargs: Any
) -> torch.nn.Module:
    """Build `AllegroEnergyModel` with forces, virial and stress.

    Args:
        do_derivatives: forces, virial and stress besides energies.
        **kwargs: see `AllegroEnergyModel`.

    Raises:
        ConfigError: an argument is unknown, missing or out of range.
    """
    return ForceStressOutput(AllegroEnergyModel(**kwargs), do_derivatives)


def _check_sizes(given: Mapping[str, Any]) -> None:
    """Raise a `ConfigError` unless the numbers of features and layers make sense."""
    for name in ("num_layers", "num_scalar_features", "num_tensor_features"):
        require_integer(name, given[name], 1)
    for network in ("scalar_embed_mlp", "allegro_mlp", "readout_mlp"):
        require_integer(
            f"{network}_hidden_layers_depth", given[f"{network}_hidden_layers_depth"], 0
        )
        require_integer(
            f"{network}_hidden_layers_width", given[f"{network}_hidden_layers_width"], 1
        )
    if given["radial_chemical_embed_dim"] is not None:
        require_integer("radial_chemical_embed_dim", given["radial_chemical_embed_dim"], 1)


def _network(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the arguments of a `ScalarMLPFunction` whose options begin with `name`."""
    return {
        "hidden_layers_depth": given[f"{name}_hidden_layers_depth"],
        "hidden_layers_width": given[f"{name}_hidden_layers_width"],
        "nonlinearity": given[f"{name}_nonlinearity"],
        "forward_weight_init": given["forward_normalize"],
    }


def _embedding(config: Mapping[str, Any], **injected: Any) -> torch.nn.Module:
    """Return the radial-chemical embedding that a config's ``_target_`` names.

    Raises:
        ConfigError: the target does not exist, refuses its arguments, or is not a module.
    """
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise ConfigError(
            "radial_chemical_embed must be a mapping with _target_ "
            "(allegro.nn.TwoBodyBesselScalarEmbed or allegro.nn.TwoBodySplineScalarEmbed) and its "
            f"arguments, got {config!r}"
        )
    target = config["_target_"]
    try:
        module = instantiate(config, **injected)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"radial_chemical_embed {target}: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(
            f"radial_chemical_embed {target} must make a torch.nn.Module, got "
            f"{type(module).__name__}"
        )
    return module
