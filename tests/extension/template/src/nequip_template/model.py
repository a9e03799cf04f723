"""A pair model whose interaction depends on the types of its atoms and on a temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from nequip_core.cutoffs import PartialCutoffs
from nequip_core.fields import PER_ATOM_ENERGY_KEY, TOTAL_ENERGY_KEY
from nequip_model.builder import model_builder
from nequip_model.graph_modules.atomwise import AtomwiseReduce, PerTypeScaleShift
from nequip_model.graph_modules.derivatives import ForceStressOutput
from nequip_model.graph_modules.edges import (
    BesselEdgeLengthEncoding,
    EdgeLengthNormalizer,
    PolynomialCutoff,
)
from nequip_model.graph_modules.mixin import SequentialGraphNetwork
from nequip_model.graph_modules.node_embedding import NodeTypeEmbed
from nequip_template.fields import TEMPERATURE_KEY
from nequip_template.pair_energy import PairEnergy

__all__ = ["TemplateModel"]


@model_builder
def TemplateModel(
    *,
    type_names: Sequence[str],
    r_max: float,
    num_bessels: int = 8,
    width: int = 16,
    per_edge_type_cutoff: PartialCutoffs | None = None,
    per_type_energy_shifts: float | Mapping[str, float] | None = None,
) -> torch.nn.Module:
    """Build the model; `model_builder` adds ``seed`` and ``model_dtype``."""
    lengths = EdgeLengthNormalizer(
        r_max, type_names, per_edge_type_cutoff, irreps_in={TEMPERATURE_KEY: "1x0e"}
    )
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
