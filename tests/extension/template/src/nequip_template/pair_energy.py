"""The one graph module of this extension. Packages carry this file, not the builder's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from e3nn.o3 import Irreps
from template_kernels import damped

from nequip_core.fields import (
    BATCH_KEY,
    EDGE_CUTOFF_KEY,
    EDGE_EMBEDDING_KEY,
    EDGE_INDEX_KEY,
    NODE_ATTRS_KEY,
    PER_ATOM_ENERGY_KEY,
)
from nequip_model.graph_modules.functional import scatter
from nequip_model.graph_modules.mixin import GraphModuleMixin
from nequip_model.graph_modules.mlp import ScalarMLPFunction
from nequip_model.nn.modifier import model_modifier
from nequip_template.fields import TEMPERATURE_KEY

__all__ = ["PairEnergy"]


class PairEnergy(GraphModuleMixin, torch.nn.Module):
    """E_i = strength * sum over edges of u(r) MLP(basis(r), type_i + type_j) / (1 + temperature).

    Args:
        width: hidden layer of the perceptron.
        irreps_in: irreps of the input, with basis and attributes.
    """

    def __init__(self, width: int, irreps_in: Mapping[str, Any]) -> None:
        super().__init__()
        self._init_irreps(
            irreps_in=irreps_in,
            required_irreps_in=[EDGE_EMBEDDING_KEY, NODE_ATTRS_KEY],
            irreps_out={PER_ATOM_ENERGY_KEY: "1x0e"},
        )
        num_inputs = sum(
            Irreps(self.irreps_in[field]).dim for field in (EDGE_EMBEDDING_KEY, NODE_ATTRS_KEY)
        )
        self.mlp = ScalarMLPFunction(
            num_inputs, 1, hidden_layers_depth=1, hidden_layers_width=width
        )
        self.strength = 1.0

    @model_modifier(persistent=True)
    @classmethod
    def scale_PairEnergy(cls, model: torch.nn.Module, strength: float) -> torch.nn.Module:
        """Multiply the interaction by a constant."""
        for module in model.modules():
            if isinstance(module, cls):
                module.strength = float(strength)
        return model

    def plot(self) -> None:
        """Draw the interaction: for people, so the library it needs is mocked in packages."""
        import template_plots

        template_plots.draw(self.mlp)

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with ``atomic_energy``."""
        centre, neighbour = data[EDGE_INDEX_KEY][0], data[EDGE_INDEX_KEY][1]
        types = data[NODE_ATTRS_KEY]
        pair = types.index_select(0, centre) + types.index_select(0, neighbour)
        edges = self.mlp(torch.cat([data[EDGE_EMBEDDING_KEY], pair], dim=-1))
        edges = self.strength * damped(edges, data[EDGE_CUTOFF_KEY])
        energy = scatter(edges, centre, dim=0, dim_size=types.shape[0])
        if TEMPERATURE_KEY in data:
            warmth = 1.0 / (1.0 + data[TEMPERATURE_KEY].reshape(-1, 1).to(energy.dtype))
            energy = energy * (
                warmth.index_select(0, data[BATCH_KEY]) if BATCH_KEY in data else warmth
            )
        data[PER_ATOM_ENERGY_KEY] = energy
        return data
