"""One message-passing layer."""

from __future__ import annotations

from typing import Any

import torch

from nequip_core.fields import (
    ATOM_TYPE_KEY,
    EDGE_ATTRS_KEY,
    EDGE_EMBEDDING_KEY,
    EDGE_INDEX_KEY,
    NODE_ATTRS_KEY,
    NODE_FEATURES_KEY,
)
from nequip_model.nn.convolution import Convolution
from nequip_model.nn.layout import Layout
from nequip_model.nn.linear import EquivariantLinear, SelfConnection
from nequip_model.nn.mlp import ScalarMLP

__all__ = ["InteractionLayer"]


class InteractionLayer(torch.nn.Module):
    """x <- gate(linear_out(convolution(linear_in(x) / sqrt(n))) + self_connection(x)).

    n is the average number of neighbours, of the sending atom's type where it is given per type.

    Args:
        linear_in: mixes channels before the convolution.
        radial: radial network, basis (E, B) to the convolution's weights.
        convolution: the sum over neighbours.
        linear_out: mixes the convolution's paths.
        self_connection: None for a layer without one.
        gate: the nonlinearity, a `Gate` or a `NormNonlinearity`.
        avg_num_neighbors: one number, or one a type.
        dtype: the model's dtype.
        residual: add the layer's input to its output.

    Source: Batzner et al., Nat. Commun. 13, 2453 (2022), figure 1 and Methods.
    """

    def __init__(
        self,
        linear_in: EquivariantLinear,
        radial: ScalarMLP,
        convolution: Convolution,
        linear_out: EquivariantLinear,
        self_connection: SelfConnection | None,
        gate: Any,
        avg_num_neighbors: list[float],
        dtype: torch.dtype,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.linear_in = linear_in
        self.radial = radial
        self.convolution = convolution
        self.linear_out = linear_out
        self.self_connection = self_connection
        self.gate = gate
        self.layout_out: Layout = gate.layout_out
        self.residual = residual
        norm = torch.tensor(avg_num_neighbors, dtype=torch.float64).rsqrt().to(dtype)
        self.register_buffer("neighbor_norm", norm.unsqueeze(-1))
        self.neighbor_norm: torch.Tensor

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with the new ``node_features``."""
        features = data[NODE_FEATURES_KEY]
        norm = self.neighbor_norm
        if norm.shape[0] > 1:
            norm = norm.index_select(0, data[ATOM_TYPE_KEY])
        mixed = self.convolution(
            self.linear_in(features) * norm,
            data[EDGE_ATTRS_KEY],
            self.radial(data[EDGE_EMBEDDING_KEY]),
            data[EDGE_INDEX_KEY][0],
            data[EDGE_INDEX_KEY][1],
        )
        mixed = self.linear_out(mixed)
        if self.self_connection is not None:
            mixed = mixed + self.self_connection(features, data[NODE_ATTRS_KEY])
        output = self.gate(mixed)
        data[NODE_FEATURES_KEY] = features + output if self.residual else output
        return data
