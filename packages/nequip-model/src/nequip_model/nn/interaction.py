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
    NORM_LENGTH_KEY,
)
from nequip_model.nn.convolution import Convolution
from nequip_model.nn.layout import Layout
from nequip_model.nn.linear import EquivariantLinear, SelfConnection
from nequip_model.nn.mlp import ScalarMLP
from nequip_model.nn.modifier import model_modifier
from nequip_model.nn.radial import BesselBasis
from nequip_model.nn.radial_table import radial_table

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
        centre, neighbour = data[EDGE_INDEX_KEY][0], data[EDGE_INDEX_KEY][1]
        given = self.linear_in(features) * norm, data[EDGE_ATTRS_KEY]
        # Not an attribute of the class: that would hide the submodule.
        table = getattr(self, "radial_table", None)
        if table is None:
            factors = self.radial.factors(data[EDGE_EMBEDDING_KEY])
            mixed = self.convolution.of_hidden(*given, *factors, centre, neighbour)
        else:
            x = data[NORM_LENGTH_KEY]
            mixed = self.convolution.of_table(*given, table, x, centre, neighbour)
        mixed = self.linear_out(mixed)
        if self.self_connection is not None:
            mixed = mixed + self.self_connection(features, data[NODE_ATTRS_KEY])
        output = self.gate(mixed)
        data[NODE_FEATURES_KEY] = features + output if self.residual else output
        return data

    @model_modifier(persistent=False)
    @classmethod
    def enable_RadialTable(  # noqa: N802
        cls, model: torch.nn.Module, max_error: float = 1e-6
    ) -> torch.nn.Module:
        """Take the radial networks' outputs from tables in the distance; for inference.

        Forces and stress are exactly the derivatives of the energy so computed.

        Args:
            model: the model, changed in place.
            max_error: bound on the error of the networks' outputs over their largest magnitude, and
                on that of their slopes; it is verified here.

        Raises:
            ValueError: the bound cannot be kept, or the model has not one radial basis.
        """
        bases = [module for module in model.modules() if isinstance(module, BesselBasis)]
        if len(bases) != 1:
            raise ValueError(f"the model must have one radial basis, it has {len(bases)}")
        for layer in model.modules():
            if isinstance(layer, cls):
                table = radial_table(layer.radial, bases[0], max_error)
                layer.radial_table = table.train(layer.training)
        bases[0].tabulated = True
        return model
