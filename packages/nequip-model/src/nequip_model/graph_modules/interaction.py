"""The interaction of a NequIP network: convolution over neighbours, then a nonlinearity.

With the documented arguments and state-dict names. `nequip_model.nn.interaction` is the faster one
of this project's own network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from e3nn.nn._gate import Gate
from e3nn.nn._normact import NormActivation
from e3nn.o3._irreps import Irreps
from e3nn.o3._linear import Linear
from e3nn.o3._tensor_product._sub import FullyConnectedTensorProduct
from e3nn.o3._tensor_product._tensor_product import TensorProduct

from nequip_core.fields import (
    EDGE_ATTRS_KEY,
    EDGE_EMBEDDING_KEY,
    EDGE_INDEX_KEY,
    NODE_ATTRS_KEY,
    NODE_FEATURES_KEY,
)
from nequip_model.graph_modules.atomwise import AvgNumNeighborsNorm
from nequip_model.graph_modules.functional import scatter, tp_path_exists
from nequip_model.graph_modules.mixin import GraphModuleMixin
from nequip_model.graph_modules.mlp import ScalarMLPFunction
from nequip_model.nn.activations import PARITIES, SECOND_MOMENTS, activation

__all__ = ["ConvNetLayer", "InteractionBlock", "TensorProductScatter"]

Data = dict[str, torch.Tensor]
IrrepsIn = Mapping[str, Any] | None

_SCALAR = Irreps("0e")[0].ir
_DEFAULTS = {"e": "silu", "o": "tanh"}


class TensorProductScatter(torch.nn.Module):
    """Features of the senders times attributes of the edges, summed over each receiver's edges.

    Args:
        feature_irreps_in: of the node features.
        irreps_edge_attr: of the edge attributes.
        irreps_mid: of the result.
        instructions: paths of `e3nn.o3.TensorProduct`.
    """

    def __init__(
        self,
        feature_irreps_in: Any,
        irreps_edge_attr: Any,
        irreps_mid: Any,
        instructions: Sequence[tuple[Any, ...]],
    ) -> None:
        super().__init__()
        self.tp = TensorProduct(
            Irreps(feature_irreps_in),
            Irreps(irreps_edge_attr),
            Irreps(irreps_mid),
            list(instructions),
            shared_weights=False,
            internal_weights=False,
        )

    def forward(
        self,
        x: torch.Tensor,
        edge_attr: torch.Tensor,
        edge_weight: torch.Tensor,
        edge_dst: torch.Tensor,
        edge_src: torch.Tensor,
    ) -> torch.Tensor:
        """Return (N, mid) of (N, features), (E, attributes), (E, weights) and two times (E,)."""
        messages = self.tp(x.index_select(0, edge_src), edge_attr, edge_weight)
        return scatter(messages, edge_dst, dim=0, dim_size=x.shape[0])


class InteractionBlock(GraphModuleMixin, torch.nn.Module):
    """Mix the channels of an atom's features and those of its neighbours into new features.

    new = linear_2(sum over edges of R(edge) linear_1(x)[neighbour] (x) Y(edge)) + sc(x, attributes)

    R is a perceptron on ``edge_embedding``; the sum is over 1 / sqrt(avg_num_neighbors), by the
    neighbour's type where given per type.

    Args:
        irreps_in: irreps of the input, with ``node_features``, ``node_attrs`` (scalars, 0e),
            ``edge_attrs`` and ``edge_embedding`` (scalars, 0e).
        irreps_out: irreps of the new ``node_features``.
        radial_mlp_depth: hidden layers of the perceptron.
        radial_mlp_width: width of those.
        use_sc: add the self-connection sc.
        is_first_layer: whether the features are those of the types alone; changes nothing.
        type_names: the T type names in order.
        avg_num_neighbors: average number of neighbours, one number or one for every type.

    Raises:
        ValueError: a field is missing, or there is no average number of neighbours.
    """

    def __init__(
        self,
        irreps_in: IrrepsIn,
        irreps_out: Any,
        radial_mlp_depth: int = 1,
        radial_mlp_width: int = 8,
        use_sc: bool = True,
        is_first_layer: bool = False,
        type_names: Sequence[str] | None = None,
        avg_num_neighbors: float | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.use_sc = use_sc
        self.is_first_layer = is_first_layer
        wanted = Irreps(irreps_out)
        self._init_irreps(
            irreps_in=irreps_in,
            required_irreps_in=[
                EDGE_EMBEDDING_KEY,
                EDGE_ATTRS_KEY,
                NODE_FEATURES_KEY,
                NODE_ATTRS_KEY,
            ],
            my_irreps_in={EDGE_EMBEDDING_KEY: _only_scalars(irreps_in, EDGE_EMBEDDING_KEY)},
            irreps_out={NODE_FEATURES_KEY: wanted},
        )
        features, edges = self.irreps_in[NODE_FEATURES_KEY], self.irreps_in[EDGE_ATTRS_KEY]
        self.avg_num_neighbors_norm = AvgNumNeighborsNorm(type_names or (), avg_num_neighbors)
        self.linear_1 = Linear(
            irreps_in=features, irreps_out=features, internal_weights=True, shared_weights=True
        )
        middle, instructions = _paths(features, edges, wanted)
        self.tp_scatter = TensorProductScatter(features, edges, middle, instructions)
        self.edge_mlp = ScalarMLPFunction(
            input_dim=self.irreps_in[EDGE_EMBEDDING_KEY].num_irreps,  # type: ignore[union-attr]
            output_dim=self.tp_scatter.tp.weight_numel,
            hidden_layers_depth=radial_mlp_depth,
            hidden_layers_width=radial_mlp_width,
        )
        self.linear_2 = Linear(
            irreps_in=middle.simplify(),
            irreps_out=wanted,
            internal_weights=True,
            shared_weights=True,
        )
        self.sc = (
            FullyConnectedTensorProduct(features, self.irreps_in[NODE_ATTRS_KEY], wanted)
            if use_sc
            else None
        )

    def forward(self, data: Data) -> Data:
        """Return the data with the new ``node_features``."""
        features = data[NODE_FEATURES_KEY]
        edges = data[EDGE_INDEX_KEY]
        own = None if self.sc is None else self.sc(features, data[NODE_ATTRS_KEY])
        data[NODE_FEATURES_KEY] = self.linear_1(features)
        data = self.avg_num_neighbors_norm(data)
        mixed = self.linear_2(
            self.tp_scatter(
                data[NODE_FEATURES_KEY],
                data[EDGE_ATTRS_KEY],
                self.edge_mlp(data[EDGE_EMBEDDING_KEY]),
                edges[0],
                edges[1],
            )
        )
        data[NODE_FEATURES_KEY] = mixed if own is None else mixed + own
        return data


class ConvNetLayer(GraphModuleMixin, torch.nn.Module):
    """A convolution and an equivariant nonlinearity.

    Of the wanted irreps those are made that the product of features and edge attributes reaches.

    Args:
        irreps_in: irreps of the input; see `InteractionBlock`.
        feature_irreps_hidden: wanted irreps of the new ``node_features``.
        convolution: makes the convolution of ``irreps_in``, ``irreps_out`` and
            `convolution_kwargs`.
        convolution_kwargs: its further arguments.
        resnet: add the layer's input to its output where the two have the same irreps.
        nonlinearity_type: ``gate`` (scalars multiply the other irreps) or ``norm`` (every irrep's
            length through a nonlinearity).
        nonlinearity_scalars: nonlinearity of even (``e``) and odd (``o``) scalars: abs, silu, ssp
            or tanh; abs or tanh for odd ones. With ``norm`` that for ``e`` counts.
        nonlinearity_gates: the same for the gates.

    Raises:
        ValueError: a nonlinearity is unknown, or none of the wanted irreps can be made.
    """

    def __init__(
        self,
        irreps_in: IrrepsIn,
        feature_irreps_hidden: Any,
        convolution: Callable[..., Any] = InteractionBlock,
        convolution_kwargs: Mapping[str, Any] | None = None,
        resnet: bool = False,
        nonlinearity_type: str = "gate",
        nonlinearity_scalars: Mapping[str, str] = _DEFAULTS,
        nonlinearity_gates: Mapping[str, str] = _DEFAULTS,
    ) -> None:
        super().__init__()
        if nonlinearity_type not in ("gate", "norm"):
            raise ValueError(
                f"nonlinearity_type must be 'gate' or 'norm', got {nonlinearity_type!r}"
            )
        self.feature_irreps_hidden = Irreps(feature_irreps_hidden)
        self._init_irreps(
            irreps_in=irreps_in, required_irreps_in=[NODE_FEATURES_KEY, EDGE_ATTRS_KEY]
        )
        features, edges = self.irreps_in[NODE_FEATURES_KEY], self.irreps_in[EDGE_ATTRS_KEY]
        reached = [
            (mul, ir)
            for mul, ir in self.feature_irreps_hidden
            if tp_path_exists(features, edges, ir)
        ]
        if not reached:
            raise ValueError(
                f"none of {self.feature_irreps_hidden} is in the product of {features} and {edges}"
            )
        scalars = Irreps([(mul, ir) for mul, ir in reached if ir.l == 0])
        gated = Irreps([(mul, ir) for mul, ir in reached if ir.l > 0])
        nonlinearity: Any
        if nonlinearity_type == "gate":
            gates = Irreps(
                [
                    (mul, "0e" if tp_path_exists(features, edges, _SCALAR) else "0o")
                    for mul, _ in gated
                ]
            )
            nonlinearity = Gate(
                scalars,
                [_function(nonlinearity_scalars, ir.p) for _, ir in scalars],
                gates,
                [_function(nonlinearity_gates, ir.p) for _, ir in gates],
                gated,
            )
            before = nonlinearity.irreps_in.simplify()
        else:
            before = (scalars + gated).simplify()
            nonlinearity = NormActivation(
                before,
                scalar_nonlinearity=_function(nonlinearity_scalars, 1),
                normalize=True,
                epsilon=1e-8,
                bias=False,
            )
        self.equivariant_nonlin = nonlinearity
        after = nonlinearity.irreps_out
        self.resnet = resnet and after == features
        self.conv = convolution(
            irreps_in=self.irreps_in, irreps_out=before, **(convolution_kwargs or {})
        )
        self.irreps_out = {**self.conv.irreps_out, NODE_FEATURES_KEY: after}

    def forward(self, data: Data) -> Data:
        """Return the data with the new ``node_features``."""
        before = data[NODE_FEATURES_KEY]
        data = self.conv(data)
        after = self.equivariant_nonlin(data[NODE_FEATURES_KEY])
        data[NODE_FEATURES_KEY] = before + after if self.resnet else after
        return data


def _paths(features: Any, edges: Any, wanted: Irreps) -> tuple[Irreps, list[tuple[Any, ...]]]:
    """Return the sorted irreps of a product path by path, and the paths in order of generation."""
    middle, paths = [], []
    for i, (mul, ir) in enumerate(features):
        for j, (_, ir_edge) in enumerate(edges):
            for ir_out in ir * ir_edge:
                if ir_out in wanted:
                    paths.append((i, j))
                    middle.append((mul, ir_out))
    if not middle:
        raise ValueError(f"none of {wanted} is in the product of {features} and {edges}")
    irreps, places, _ = Irreps(middle).sort()
    return irreps, [(i, j, place, "uvu", True) for (i, j), place in zip(paths, places, strict=True)]


def _only_scalars(irreps_in: IrrepsIn, field: str) -> Irreps | None:
    """Return as many even scalars as the field has irreps."""
    given = (irreps_in or {}).get(field)
    return None if given is None else Irreps([(Irreps(given).num_irreps, (0, 1))])


def _function(names: Mapping[str, str], parity: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the nonlinearity of scalars of a parity.

    Raises:
        ValueError: it is unknown, or for odd scalars neither an even nor an odd function.
    """
    name = names["e" if parity == 1 else "o"]
    if name not in SECOND_MOMENTS or (parity == -1 and name not in PARITIES):
        known = sorted(SECOND_MOMENTS if parity == 1 else PARITIES)
        kind = "even (e)" if parity == 1 else "odd (o)"
        raise ValueError(f"the nonlinearity of {kind} scalars must be one of {known}, got {name!r}")
    return activation(name)
