"""The NequIP message-passing network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.cutoffs import PartialCutoffs, cutoff_table
from nequip_core.errors import ConfigError
from nequip_model.builder import current_dtype, model_builder
from nequip_model.irreps import coupling, hidden_layout, layer_irreps, parse_irreps
from nequip_model.nn.activations import ACTIVATIONS
from nequip_model.nn.convolution import Convolution
from nequip_model.nn.derivatives import ForceStressOutput
from nequip_model.nn.embedding import TypeEmbedding
from nequip_model.nn.energy import AtomicEnergyReadout, PerTypeScaleShift, TotalEnergy
from nequip_model.nn.gate import Gate
from nequip_model.nn.geometry import EdgeGeometry
from nequip_model.nn.interaction import InteractionLayer
from nequip_model.nn.layout import Layout
from nequip_model.nn.linear import EquivariantLinear, SelfConnection
from nequip_model.nn.mlp import ScalarMLP
from nequip_model.nn.radial import BesselBasis
from nequip_model.nn.spherical_harmonics import SphericalHarmonics
from nequip_model.per_type import per_type_values

__all__ = ["FullNequIPGNNModel", "NequIPGNNModel"]

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
    do_derivatives: bool = True,
) -> torch.nn.Module:
    """Build a NequIP network layer by layer.

    Args:
        type_names: the T type names in order.
        r_max: cutoff radius, length.
        irreps_edge_sh: edge harmonics: their highest degree, or irreps from degree 0 up.
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
        do_derivatives: forces, virial and stress besides energies.

    Raises:
        ConfigError: an argument is unknown, missing or out of range.
    """
    dtype = current_dtype()
    if not isinstance(r_max, int | float) or not r_max > 0.0:
        raise ConfigError(f"r_max must be a positive number, got {r_max!r}")
    if not isinstance(polynomial_cutoff_p, int | float) or polynomial_cutoff_p < 2:
        raise ConfigError(f"polynomial_cutoff_p must be at least 2, got {polynomial_cutoff_p!r}")
    _require_integer("num_bessels", num_bessels, 1)
    _require_integer("type_embed_num_features", type_embed_num_features, 1)
    _require_integer("readout_mlp_hidden_layers_depth", readout_mlp_hidden_layers_depth, 0)
    if avg_num_neighbors is None:
        raise ConfigError(
            "avg_num_neighbors must be specified: a number, a number by type, or "
            "${training_data_stats:num_neighbors_mean}"
        )
    neighbors = per_type_values("avg_num_neighbors", avg_num_neighbors, type_names)
    if neighbors is None or min(neighbors) <= 0.0:
        raise ConfigError(f"avg_num_neighbors must be positive, got {avg_num_neighbors}")
    _check_layer_lists(feature_irreps_hidden, radial_mlp_depth, radial_mlp_width)
    l_max = _harmonics_degree(irreps_edge_sh)
    cutoffs = None
    if per_edge_type_cutoff is not None:
        cutoffs = cutoff_table(per_edge_type_cutoff, type_names, r_max)

    modules: OrderedDict[str, torch.nn.Module] = OrderedDict()
    modules["type_embedding"] = TypeEmbedding(len(type_names), type_embed_num_features, dtype)
    modules["geometry"] = EdgeGeometry(r_max, cutoffs)
    modules["harmonics"] = SphericalHarmonics(l_max, dtype)
    modules["radial_basis"] = BesselBasis(
        r_max, num_bessels, bessel_trainable, polynomial_cutoff_p, dtype
    )
    layout = Layout([(type_embed_num_features, 0, 1)])
    for number, irreps in enumerate(feature_irreps_hidden):
        layer = _interaction_layer(
            layout,
            parse_irreps(irreps),
            l_max,
            num_attributes=type_embed_num_features,
            radial_dims=[num_bessels] + [radial_mlp_width[number]] * radial_mlp_depth[number],
            self_connection=convnet_sc and (number > 0 or learnable_shift),
            residual=convnet_resnet,
            avg_num_neighbors=neighbors,
            dtype=dtype,
        )
        modules[f"layer{number}"] = layer
        layout = layer.gate.layout_out
    if [block[1:] for block in layout.blocks] != [(0, 1)]:
        raise ConfigError(f"the last layer's features must be scalars (0e), got {layout}")
    if readout_mlp_nonlinearity not in (None, *ACTIVATIONS):
        raise ConfigError(
            f"readout_mlp_nonlinearity must be one of {sorted(ACTIVATIONS)} or null, "
            f"got {readout_mlp_nonlinearity!r}"
        )
    width = readout_mlp_hidden_layers_width or layout.dim
    dims = [layout.dim] + [width] * readout_mlp_hidden_layers_depth + [1]
    modules["readout"] = AtomicEnergyReadout(ScalarMLP(dims, readout_mlp_nonlinearity, dtype))
    scales = per_type_values("per_type_energy_scales", per_type_energy_scales, type_names)
    shifts = per_type_values("per_type_energy_shifts", per_type_energy_shifts, type_names)
    modules["scale_shift"] = PerTypeScaleShift(
        _one_a_type(scales, type_names) if per_type_energy_scales_trainable else scales,
        _one_a_type(shifts, type_names) if per_type_energy_shifts_trainable else shifts,
        per_type_energy_scales_trainable,
        per_type_energy_shifts_trainable,
    )
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
    _require_integer("num_layers", num_layers, 1)
    _require_integer("l_max", l_max, 0)
    _require_integer("radial_mlp_depth", radial_mlp_depth, 0)
    _require_integer("radial_mlp_width", radial_mlp_width, 1)
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


def _require_integer(name: str, value: object, minimum: int) -> None:
    """Raise a `ConfigError` unless `value` is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(f"{name} must be an integer, at least {minimum}, got {value!r}")


def _one_a_type(values: list[float] | None, type_names: Sequence[str]) -> list[float] | None:
    """Return one value a type: what is trained is trained for each type."""
    return values * len(type_names) if values is not None and len(values) == 1 else values


def _check_layer_lists(*lists: Sequence[Any]) -> None:
    names = ("feature_irreps_hidden", "radial_mlp_depth", "radial_mlp_width")
    lengths = {name: len(values) for name, values in zip(names, lists, strict=True)}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ConfigError(f"one entry a layer is needed in each of these lists, got {lengths}")


def _harmonics_degree(irreps_edge_sh: int | str) -> int:
    """Return l_max of the edge harmonics.

    Raises:
        ConfigError: the irreps are not 1x0e + 1x1o + 1x2e + ... without a gap.
    """
    if isinstance(irreps_edge_sh, int):
        return irreps_edge_sh
    blocks = parse_irreps(irreps_edge_sh).blocks
    if list(blocks) != [(1, l, (-1) ** l) for l in range(len(blocks))]:
        raise ConfigError(
            f"irreps_edge_sh must be 1x0e + 1x1o + 1x2e + ... in order, got '{irreps_edge_sh}'"
        )
    return len(blocks) - 1


def _interaction_layer(
    layout_in: Layout,
    target: Layout,
    l_max: int,
    *,
    num_attributes: int,
    radial_dims: list[int],
    self_connection: bool,
    residual: bool,
    avg_num_neighbors: list[float],
    dtype: torch.dtype,
) -> InteractionLayer:
    """Build one layer; the order of construction is the order of the random draws."""
    irreps = layer_irreps(layout_in, l_max, target)
    linear_in = EquivariantLinear(layout_in, layout_in, dtype)
    couplings = [
        coupling(layout_in.blocks[place][1], l_sh, l_out, dtype)
        for place, l_sh, l_out, _ in irreps.paths
    ]
    convolution = Convolution(layout_in, irreps.paths, irreps.convolved, couplings, l_max)
    radial = ScalarMLP([*radial_dims, convolution.weight_numel], "silu", dtype)
    linear_out = EquivariantLinear(irreps.convolved, irreps.mixed, dtype)
    own = (
        SelfConnection(layout_in, num_attributes, irreps.mixed, dtype) if self_connection else None
    )
    gate = Gate(irreps.mixed, irreps.scalars, irreps.gate_parity, irreps.gated)
    return InteractionLayer(
        linear_in=linear_in,
        radial=radial,
        convolution=convolution,
        linear_out=linear_out,
        self_connection=own,
        gate=gate,
        avg_num_neighbors=avg_num_neighbors,
        dtype=dtype,
        residual=residual and gate.layout_out == layout_in,
    )
