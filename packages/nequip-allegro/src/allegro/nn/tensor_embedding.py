"""First tensor features of edges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from allegro.nn.channels import WeightedHarmonics
from nequip_core.fields import EDGE_ATTRS_KEY, EDGE_EMBEDDING_KEY, EDGE_FEATURES_KEY
from nequip_model.graph_modules.edges import SphericalHarmonicEdgeAttrs
from nequip_model.graph_modules.mixin import GraphModuleMixin
from nequip_model.graph_modules.mlp import ScalarMLPFunction

__all__ = ["TwoBodySphericalHarmonicTensorEmbed"]


class TwoBodySphericalHarmonicTensorEmbed(GraphModuleMixin, torch.nn.Module):
    """Add the harmonics of edges, (E, L), and tensor features, (E, L, M): harmonics times weights.

    The weights are a linear map of the scalar embedding.

    Args:
        irreps_edge_sh: highest degree, or irreps with one copy each of parity (-1)^l.
        num_tensor_features: M.
        forward_weight_init: keep the variance of the forward or of the backward pass.
        scalar_embedding_in_field: scalars of the edge, to read.
        tensor_basis_out_field: the harmonics, to write.
        tensor_embedding_out_field: the features, to write.
        irreps_in: irreps of the input, with those of the scalars.
        edge_sh_normalization: see `SphericalHarmonicEdgeAttrs`.
        edge_sh_normalize: see `SphericalHarmonicEdgeAttrs`.
        weight_individual_irreps: a weight for each irrep of a channel, or one for all of them.

    Raises:
        ValueError: the irreps are not those of spherical harmonics, or scalars are missing.
    """

    def __init__(
        self,
        irreps_edge_sh: Any,
        num_tensor_features: int,
        forward_weight_init: bool = True,
        scalar_embedding_in_field: str = EDGE_EMBEDDING_KEY,
        tensor_basis_out_field: str = EDGE_ATTRS_KEY,
        tensor_embedding_out_field: str = EDGE_FEATURES_KEY,
        irreps_in: Mapping[str, Any] | None = None,
        edge_sh_normalization: str = "component",
        edge_sh_normalize: bool = True,
        weight_individual_irreps: bool = True,
    ) -> None:
        super().__init__()
        self.scalar_embedding_in_field = scalar_embedding_in_field
        self.tensor_basis_out_field = tensor_basis_out_field
        self.tensor_embedding_out_field = tensor_embedding_out_field
        self.sh = SphericalHarmonicEdgeAttrs(
            irreps_edge_sh,
            edge_sh_normalization,
            edge_sh_normalize,
            irreps_in=irreps_in,
            out_field=tensor_basis_out_field,
        )
        harmonics: Any = self.sh.irreps_out[tensor_basis_out_field]
        self._init_irreps(
            irreps_in=irreps_in,
            required_irreps_in=[scalar_embedding_in_field],
            irreps_out={
                tensor_basis_out_field: harmonics,
                tensor_embedding_out_field: [(num_tensor_features, ir) for _, ir in harmonics],
            },
        )
        self._edge_weighter = WeightedHarmonics(
            [(ir.l, ir.p) for _, ir in harmonics], num_tensor_features, weight_individual_irreps
        )
        scalars: Any = self.irreps_in[scalar_embedding_in_field]
        self.env_embed_linear = ScalarMLPFunction(
            scalars.dim,
            self._edge_weighter.weight_numel,
            forward_weight_init=forward_weight_init,
        )

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with harmonics and tensor features."""
        data = self.sh(data)
        weights = self.env_embed_linear(data[self.scalar_embedding_in_field])
        harmonics = data[self.tensor_basis_out_field]
        data[self.tensor_embedding_out_field] = self._edge_weighter(harmonics, weights)
        return data
