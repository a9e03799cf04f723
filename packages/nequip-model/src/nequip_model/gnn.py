"""The NequIP message-passing network."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.cutoffs import PartialCutoffs, cutoff_table
from nequip_core.errors import ConfigError
from nequip_model.arguments import (
    readout_nonlinearity,
    require_cutoff,
    require_graph_fields,
    require_integer,
    require_nonlinearities,
    require_one_a_layer,
)
from nequip_model.builder import current_dtype, model_builder
from nequip_model.interaction import interaction_layer
from nequip_model.irreps import hidden_layout, parse_irreps
from nequip_model.nn.derivatives import ForceStressOutput
from nequip_model.nn.embedding import TypeEmbedding
from nequip_model.nn.energy import AtomicEnergyReadout, PerTypeScaleShift, TotalEnergy
from nequip_model.nn.gate import DEFAULT_NONLINEARITIES
from nequip_model.nn.geometry import EdgeGeometry
from nequip_model.nn.layout import Layout
from nequip_model.nn.mlp import ScalarMLP
from nequip_model.nn.radial import BesselBasis
from nequip_model.nn.spherical_harmonics import SphericalHarmonics
from nequip_model.pair_potentials import irreps_before_potential, pair_potential_module
from nequip_model.per_type import neighbors_by_type, per_type_values

__all__ = ["FullNequIPGNNModel", "NequIPGNNModel"]

_LOG = logging.getLogger(__name__)

_WITHOUT = {
    "scales": "atomic energies keep the scale of the network's output; usual is "
    "${training_data_stats:forces_rms} or ${training_data_stats:per_type_forces_rms}",
    "shifts": "atomic energies start from zero; usual are the energies of isolated atoms, or "
    "${training_data_stats:per_atom_energy_mean}",
}

PerType = float | Mapping[str, float] | None


@model_builder(architecture_version=1)
def FullNequIPGNNModel(  # noqa: N802 - documented name, used like a class in configs
    *,
    type_names: Sequence[str],
    r_max: float,
    irreps_edge_sh: int | str,
    type_embed_num_features: int,
    feature_irreps_hidden: Sequence[str],
    radial_mlp_depth: Sequence[int],
    radial_mlp_width: Sequence[int],
    per_edge_type_cutoff: PartialCutoffs | None = None,
    num_bessels: int = 8,
    bessel_trainable: bool = False,
    polynomial_cutoff_p: int = 6,
    avg_num_neighbors: PerType = None,
    readout_mlp_hidden_layers_depth: int = 0,
    readout_mlp_hidden_layers_width: int | None = None,
    readout_mlp_nonlinearity: str | None = "silu",
    per_type_energy_scales: PerType = None,
    per_type_energy_shifts: PerType = None,
    per_type_energy_scales_trainable: bool = False,
    per_type_energy_shifts_trainable: bool = False,
    convnet_sc: bool = True,
    learnable_shift: bool = False,
    convnet_resnet: bool = False,
    convnet_nonlinearity_type: str = "gate",
    convnet_nonlinearity_scalars: Mapping[str, str] = DEFAULT_NONLINEARITIES,
    convnet_nonlinearity_gates: Mapping[str, str] = DEFAULT_NONLINEARITIES,
    categorical_graph_field_embed: Sequence[Mapping[str, Any]] | None = None,
    pair_potential: Mapping[str, Any] | None = None,
    do_derivatives: bool = True,
) -> torch.nn.Module:
    """Build a NequIP network layer by layer.

    Args:
        type_names: the T type names in order.
        r_max: cutoff radius, length.
        irreps_edge_sh: edge harmonics: their highest degree, or irreps from degree 0 up. All even
            ones (1x0e + 1x1e + ...) make a network that is not equivariant to inversion.
        type_embed_num_features: attributes of an atom.
        feature_irreps_hidden: features after each layer; those of the last are scalars (0e).
        radial_mlp_depth: hidden layers of the radial network, one number a layer.
        radial_mlp_width: width of those, one number a layer.
        per_edge_type_cutoff: shorter cutoffs of type pairs, see `nequip_core.cutoffs`.
        num_bessels: B, number of radial basis functions.
        bessel_trainable: make their roots trainable.
        polynomial_cutoff_p: order of the envelope, at least 2.
        avg_num_neighbors: average number of neighbours, overall or by type; required.
        readout_mlp_hidden_layers_depth: hidden layers of the readout.
        readout_mlp_hidden_layers_width: width of those; default the number of last features.
        readout_mlp_nonlinearity: of the readout's hidden layers.
        per_type_energy_scales: scale of the atomic energies, energy, overall or by type.
        per_type_energy_shifts: shift of the atomic energies, energy, overall or by type.
        per_type_energy_scales_trainable: make the scales trainable.
        per_type_energy_shifts_trainable: make the shifts trainable.
        convnet_sc: self-connections in every layer but the first.
        learnable_shift: a self-connection in the first layer as well.
        convnet_resnet: add a layer's input to its output where the two have the same layout.
        convnet_nonlinearity_type: ``gate`` (scalars multiply the other irreps) or ``norm`` (every
            channel's length through a nonlinearity).
        convnet_nonlinearity_scalars: nonlinearity of even (``e``) and odd (``o``) scalars: abs,
            silu, ssp or tanh; abs or tanh for odd ones. With ``norm`` that for ``e`` counts.
        convnet_nonlinearity_gates: the same for the gates.
        categorical_graph_field_embed: integer fields of a frame (its charge, say) that every atom
            of it sees; a list of mappings with ``field``, ``num_features``, ``min``, ``max`` and,
            if wanted, ``init``, see `nequip_model.nn.embedding.TypeEmbedding`.
        pair_potential: config of a module that adds to the atomic energies, e.g. ``{_target_:
            nequip.nn.pair_potential.ZBL, chemical_species: [H, C], units: metal}``.
        do_derivatives: forces, virial and stress besides energies.

    Raises:
        ConfigError: an argument is unknown, missing or out of range.
    """
    dtype = current_dtype()
    require_cutoff(r_max, polynomial_cutoff_p)
    require_integer("num_bessels", num_bessels, 1)
    require_integer("type_embed_num_features", type_embed_num_features, 1)
    require_integer("readout_mlp_hidden_layers_depth", readout_mlp_hidden_layers_depth, 0)
    if readout_mlp_hidden_layers_width is not None:
        require_integer("readout_mlp_hidden_layers_width", readout_mlp_hidden_layers_width, 1)
    neighbors = neighbors_by_type(avg_num_neighbors, type_names)
    require_one_a_layer(
        feature_irreps_hidden=feature_irreps_hidden,
        radial_mlp_depth=radial_mlp_depth,
        radial_mlp_width=radial_mlp_width,
    )
    for depth, width in zip(radial_mlp_depth, radial_mlp_width, strict=True):
        require_integer("radial_mlp_depth of a layer", depth, 0)
        require_integer("radial_mlp_width of a layer", width, 1)
    if convnet_nonlinearity_type not in ("gate", "norm"):
        raise ConfigError(
            f"convnet_nonlinearity_type must be 'gate' or 'norm', got {convnet_nonlinearity_type!r}"
        )
    require_nonlinearities("convnet_nonlinearity_scalars", convnet_nonlinearity_scalars)
    require_nonlinearities("convnet_nonlinearity_gates", convnet_nonlinearity_gates)
    graph_fields = require_graph_fields(categorical_graph_field_embed)
    nonlinearity = readout_nonlinearity(readout_mlp_nonlinearity)
    l_max, harmonics_parity = _harmonics(irreps_edge_sh)
    cutoffs = None
    if per_edge_type_cutoff is not None:
        cutoffs = cutoff_table(per_edge_type_cutoff, type_names, r_max)

    modules: OrderedDict[str, torch.nn.Module] = OrderedDict()
    embedding = TypeEmbedding(len(type_names), type_embed_num_features, dtype, graph_fields)
    modules["type_embedding"] = embedding
    modules["geometry"] = EdgeGeometry(r_max, cutoffs)
    modules["harmonics"] = SphericalHarmonics(l_max, dtype)
    modules["radial_basis"] = BesselBasis(
        r_max, num_bessels, bessel_trainable, polynomial_cutoff_p, dtype
    )
    layout = Layout([(embedding.num_features, 0, 1)])
    for number, irreps in enumerate(feature_irreps_hidden):
        layer = interaction_layer(
            layout,
            parse_irreps(irreps),
            l_max,
            num_attributes=embedding.num_features,
            radial_dims=[num_bessels] + [radial_mlp_width[number]] * radial_mlp_depth[number],
            self_connection=convnet_sc and (number > 0 or learnable_shift),
            residual=convnet_resnet,
            nonlinearity=convnet_nonlinearity_type,
            scalar_nonlinearities=convnet_nonlinearity_scalars,
            gate_nonlinearities=convnet_nonlinearity_gates,
            avg_num_neighbors=neighbors,
            dtype=dtype,
            harmonics_parity=harmonics_parity,
        )
        modules[f"layer{number}"] = layer
        layout = layer.layout_out
    if [block[1:] for block in layout.blocks] != [(0, 1)]:
        raise ConfigError(f"the last layer's features must be scalars (0e), got {layout}")
    width = readout_mlp_hidden_layers_width or layout.dim
    dims = [layout.dim] + [width] * readout_mlp_hidden_layers_depth + [1]
    modules["readout"] = AtomicEnergyReadout(ScalarMLP(dims, nonlinearity, dtype))
    modules["scale_shift"] = PerTypeScaleShift(
        _energies("scales", per_type_energy_scales, per_type_energy_scales_trainable, type_names),
        _energies("shifts", per_type_energy_shifts, per_type_energy_shifts_trainable, type_names),
        per_type_energy_scales_trainable,
        per_type_energy_shifts_trainable,
    )
    if pair_potential is not None:
        irreps_in = irreps_before_potential(embedding, layout, num_bessels, l_max)
        modules["pair_potential"] = pair_potential_module(pair_potential, type_names, irreps_in)
    modules["total_energy"] = TotalEnergy()
    return ForceStressOutput(torch.nn.Sequential(modules), do_derivatives)


@model_builder(
    extends=FullNequIPGNNModel,
    replaces=("irreps_edge_sh", "feature_irreps_hidden"),
    architecture_version=1,
)
def NequIPGNNModel(  # noqa: N802 - documented name, used like a class in configs
    *,
    type_names: Sequence[str],
    r_max: float,
    num_layers: int = 4,
    l_max: int = 1,
    parity: bool = True,
    num_features: int | Sequence[int] = 32,
    type_embed_num_features: int | None = None,
    radial_mlp_depth: int = 1,
    radial_mlp_width: int = 128,
    **kwargs: Any,
) -> torch.nn.Module:
    """Build a NequIP network with the same features in every hidden layer.

    Besides the arguments below it takes ``seed`` (int), ``model_dtype`` (``"float32"`` or
    ``"float64"``) and those of `FullNequIPGNNModel` that are not made from these.

    Args:
        type_names: the T type names in order.
        r_max: cutoff radius, length.
        num_layers: number of interaction layers.
        l_max: highest degree of the edge harmonics and the hidden features.
        parity: hidden features of both parities, or only of that of the harmonics.
        num_features: channels of every degree, or one number a degree (l_max + 1 numbers).
        type_embed_num_features: attributes of an atom; default ``num_features[0]``.
        radial_mlp_depth: hidden layers of each radial network.
        radial_mlp_width: width of those.
        **kwargs: see `FullNequIPGNNModel`.

    Raises:
        ConfigError: an argument is unknown, missing or out of range.

    Source: Batzner et al., Nat. Commun. 13, 2453 (2022), doi:10.1038/s41467-022-29939-5.
    """
    require_integer("num_layers", num_layers, 1)
    require_integer("l_max", l_max, 0)
    require_integer("radial_mlp_depth", radial_mlp_depth, 0)
    require_integer("radial_mlp_width", radial_mlp_width, 1)
    if not isinstance(parity, bool):
        raise ConfigError(f"parity must be true or false, got {parity!r}")
    if isinstance(num_features, str) or not isinstance(num_features, int | Sequence):
        raise ConfigError(f"num_features must be a number or a list, got {num_features!r}")
    by_degree = [num_features] * (l_max + 1) if isinstance(num_features, int) else num_features
    if len(by_degree) != l_max + 1:
        raise ConfigError(
            f"num_features must be one number or l_max + 1 = {l_max + 1} numbers, got "
            f"{len(by_degree)}: {list(by_degree)}"
        )
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in by_degree):
        raise ConfigError(f"num_features must be positive integers, got {list(by_degree)}")
    hidden = hidden_layout(l_max, parity, by_degree)
    last = Layout([(by_degree[0], 0, 1)])
    return FullNequIPGNNModel(
        type_names=type_names,
        r_max=r_max,
        irreps_edge_sh=l_max,
        type_embed_num_features=(
            by_degree[0] if type_embed_num_features is None else type_embed_num_features
        ),
        feature_irreps_hidden=[str(hidden)] * (num_layers - 1) + [str(last)],
        radial_mlp_depth=[radial_mlp_depth] * num_layers,
        radial_mlp_width=[radial_mlp_width] * num_layers,
        **kwargs,
    )


def _energies(
    kind: str, value: PerType, trainable: bool, type_names: Sequence[str]
) -> list[float] | None:
    """Return the scales or shifts: one number, or one a type, which is what can be trained.

    Raises:
        ConfigError: a type is missing or unknown, or a value is not a number.
    """
    argument = f"per_type_energy_{kind}"
    values = per_type_values(argument, value, type_names)
    if values is None:
        # A log message: Python's warnings would come up again wherever a checkpoint is read.
        _LOG.warning("%s is not set: %s", argument, _WITHOUT[kind])
        return None
    return values * len(type_names) if trainable and len(values) == 1 else values


def _harmonics(irreps_edge_sh: int | str) -> tuple[int, int]:
    """Return l_max of the edge harmonics, and p, where degree l has the parity p^l.

    Raises:
        ConfigError: the irreps are neither 1x0e + 1x1o + 1x2e + ... nor all even, without a gap.
    """
    if isinstance(irreps_edge_sh, int):
        require_integer("irreps_edge_sh", irreps_edge_sh, 0)
        return irreps_edge_sh, -1
    blocks = parse_irreps(irreps_edge_sh).blocks
    for parity in (-1, 1):
        if list(blocks) == [(1, l, parity**l) for l in range(len(blocks))]:
            return len(blocks) - 1, parity
    raise ConfigError(
        "irreps_edge_sh must be 1x0e + 1x1o + 1x2e + ... in order, or all even, got "
        f"'{irreps_edge_sh}'"
    )
