"""A pair model whose interaction depends on the types of its atoms and on a temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from e3nn.o3 import Irreps

from nequip_core.fields import (
    BATCH_KEY,
    EDGE_CUTOFF_KEY,
    EDGE_EMBEDDING_KEY,
    EDGE_INDEX_KEY,
    NODE_ATTRS_KEY,
    PER_ATOM_ENERGY_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_model.builder import model_builder
from nequip_model.graph_modules.atomwise import AtomwiseReduce, PerTypeScaleShift
from nequip_model.graph_modules.derivatives import ForceStressOutput
from nequip_model.graph_modules.edges import (
    BesselEdgeLengthEncoding,
    EdgeLengthNormalizer,
    PolynomialCutoff,
)
from nequip_model.graph_modules.functional import scatter
from nequip_model.graph_modules.mixin import GraphModuleMixin, SequentialGraphNetwork
from nequip_model.graph_modules.mlp import ScalarMLPFunction
from nequip_model.graph_modules.node_embedding import NodeTypeEmbed
from nequip_model.nn.modifier import model_modifier
from nequip_template import TEMPERATURE_KEY

__all__ = ["PairEnergy", "TemplateModel"]


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

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with ``atomic_energy``."""
        centre, neighbour = data[EDGE_INDEX_KEY][0], data[EDGE_INDEX_KEY][1]
        types = data[NODE_ATTRS_KEY]
        pair = types.index_select(0, centre) + types.index_select(0, neighbour)
        edges = self.mlp(torch.cat([data[EDGE_EMBEDDING_KEY], pair], dim=-1))
        edges = self.strength * edges * data[EDGE_CUTOFF_KEY]
        energy = scatter(edges, centre, dim=0, dim_size=types.shape[0])
        if TEMPERATURE_KEY in data:
            warmth = 1.0 / (1.0 + data[TEMPERATURE_KEY].reshape(-1, 1).to(energy.dtype))
            energy = energy * (
                warmth.index_select(0, data[BATCH_KEY]) if BATCH_KEY in data else warmth
            )
        data[PER_ATOM_ENERGY_KEY] = energy
        return data


@model_builder
def TemplateModel(
    *,
    type_names: Sequence[str],
    r_max: float,
    num_bessels: int = 8,
    width: int = 16,
    per_type_energy_shifts: float | Mapping[str, float] | None = None,
) -> torch.nn.Module:
    """Build the model; `model_builder` adds ``seed`` and ``model_dtype``."""
    lengths = EdgeLengthNormalizer(r_max, type_names, irreps_in={TEMPERATURE_KEY: "1x0e"})
    basis = BesselEdgeLengthEncoding(PolynomialCutoff(6), num_bessels, irreps_in=lengths.irreps_out)
    types = NodeTypeEmbed(type_names, width, irreps_in=basis.irreps_out)
    energy = PairEnergy(width, irreps_in=types.irreps_out)
    shift = PerTypeScaleShift(
        type_names,
        PER_ATOM_ENERGY_KEY,
        shifts=per_type_energy_shifts,
        irreps_in=energy.irreps_out,
    )
    total = AtomwiseReduce(PER_ATOM_ENERGY_KEY, TOTAL_ENERGY_KEY, irreps_in=shift.irreps_out)
    return ForceStressOutput(
        SequentialGraphNetwork(
            {
                "lengths": lengths,
                "basis": basis,
                "types": types,
                "energy": energy,
                "shift": shift,
                "total": total,
            }
        )
    )
