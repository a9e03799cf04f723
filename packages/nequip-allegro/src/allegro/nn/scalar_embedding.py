"""Radial-chemical embeddings: scalars of an edge from its length and the types of its ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.fields import (
    EDGE_EMBEDDING_KEY,
    EDGE_TYPE_KEY,
    NORM_LENGTH_KEY,
)
from nequip_model.graph_modules.edges import BesselEdgeLengthEncoding, PolynomialCutoff
from nequip_model.graph_modules.functional import with_edge_type_
from nequip_model.graph_modules.mixin import GraphModuleMixin, SequentialGraphNetwork
from nequip_model.graph_modules.mlp import ScalarMLPFunction

__all__ = ["ProductTypeEmbedding", "TwoBodyBesselScalarEmbed", "TwoBodySplineScalarEmbed"]

Data = dict[str, torch.Tensor]
IrrepsIn = Mapping[str, Any] | None


class ProductTypeEmbedding(GraphModuleMixin, torch.nn.Module):
    """s = [a(type of centre), b(type of neighbour)] * (linear map of the radial basis), (E, S).

    Args:
        type_names: the T type names in order.
        initial_embedding_dim: S, even: half of the scalars belong to each end.
        forward_weight_init: keep the variance of the forward or of the backward pass.
        radial_features_in_field: the radial basis, to read.
        edge_embed_out_field: the field to write.
        irreps_in: irreps of the input, with those of the radial basis.

    Raises:
        ValueError: S is odd.
    """

    def __init__(
        self,
        type_names: Sequence[str],
        initial_embedding_dim: int,
        forward_weight_init: bool = True,
        radial_features_in_field: str = EDGE_EMBEDDING_KEY,
        edge_embed_out_field: str = EDGE_EMBEDDING_KEY,
        irreps_in: IrrepsIn = None,
    ) -> None:
        super().__init__()
        if initial_embedding_dim < 2 or initial_embedding_dim % 2:
            raise ValueError(
                "the number of scalars of the embedding must be even, half for each end of an "
                f"edge; got {initial_embedding_dim}"
            )
        self.radial_features_in_field = radial_features_in_field
        self.edge_embed_out_field = edge_embed_out_field
        self._init_irreps(
            irreps_in=irreps_in,
            required_irreps_in=[radial_features_in_field],
            irreps_out={edge_embed_out_field: f"{initial_embedding_dim}x0e"},
        )
        basis: Any = self.irreps_in[radial_features_in_field]
        half = initial_embedding_dim // 2
        self.center_embed = torch.nn.Embedding(len(type_names), half)
        self.neighbor_embed = torch.nn.Embedding(len(type_names), half)
        self.basis_linear = ScalarMLPFunction(
            basis.dim, initial_embedding_dim, forward_weight_init=forward_weight_init
        )

    def forward(self, data: Data) -> Data:
        """Return the data with the scalars."""
        data = with_edge_type_(data)
        centre, neighbour = data[EDGE_TYPE_KEY].unbind(0)
        types = torch.cat([self.center_embed(centre), self.neighbor_embed(neighbour)], dim=-1)
        radial = self.basis_linear(data[self.radial_features_in_field])
        data[self.edge_embed_out_field] = types * radial
        return data


class TwoBodyBesselScalarEmbed(SequentialGraphNetwork):
    """Bessel functions times the envelope, then `ProductTypeEmbedding`.

    Args:
        type_names: the T type names in order.
        num_bessels: B, number of radial basis functions.
        bessel_trainable: make their roots trainable.
        polynomial_cutoff_p: order of the envelope, at least 2.
        module_output_dim: number of scalars, even.
        forward_weight_init: keep the variance of the forward or of the backward pass.
        scalar_embed_field: the field to write.
        irreps_in: irreps of the input.

    Raises:
        ValueError: the number of scalars is odd, or the order is below 2.
    """

    def __init__(
        self,
        type_names: Sequence[str],
        num_bessels: int = 8,
        bessel_trainable: bool = False,
        polynomial_cutoff_p: float = 6,
        module_output_dim: int = 64,
        forward_weight_init: bool = True,
        scalar_embed_field: str = EDGE_EMBEDDING_KEY,
        irreps_in: IrrepsIn = None,
    ) -> None:
        bessel = BesselEdgeLengthEncoding(
            PolynomialCutoff(polynomial_cutoff_p),
            num_bessels,
            bessel_trainable,
            edge_invariant_field=scalar_embed_field,
            irreps_in=irreps_in,
        )
        types = ProductTypeEmbedding(
            type_names,
            module_output_dim,
            forward_weight_init,
            radial_features_in_field=scalar_embed_field,
            edge_embed_out_field=scalar_embed_field,
            irreps_in=bessel.irreps_out,
        )
        super().__init__({"bessel_encode": bessel, "type_embed": types})


class _PerPairSpline(torch.nn.Module):
    """s[e, c] = sum over knots k of W[pair(e), c, k] b_k(x): a smooth curve a pair and channel.

    b_k(x) = (1 - cos(2 pi (x - lower_k) / d))^2 / 4 for lower_k < x < upper_k = lower_k + d, else
    0, with lower_k = (k - span) / K and d = (span + 1) / K. All of them end by x = 1. In float64.
    """

    def __init__(self, num_pairs: int, num_channels: int, num_splines: int, span: int) -> None:
        super().__init__()
        self.num_channels, self.num_splines = num_channels, num_splines
        self.width = (span + 1) / num_splines
        lower = torch.arange(-span, num_splines - span, dtype=torch.float64) / num_splines
        self.register_buffer("lower", lower)
        self.register_buffer("upper", lower + self.width)
        self.lower: torch.Tensor
        self.upper: torch.Tensor
        self.class_embed = torch.nn.Embedding(
            num_pairs, num_channels * num_splines, dtype=torch.float64
        )
        bound = math.sqrt(3.0 / span)
        torch.nn.init.uniform_(self.class_embed.weight, -bound, bound)

    def forward(self, x: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
        """Return the curves at normed lengths (E, 1) of pairs (E,): (E, C) float64."""
        inside = torch.maximum(torch.minimum(x, self.upper), self.lower) - self.lower
        basis = (1.0 - torch.cos(inside * (2.0 * math.pi / self.width))).square() * 0.25
        weights = self.class_embed(pair).reshape(-1, self.num_channels, self.num_splines)
        return torch.bmm(weights, basis.unsqueeze(-1)).squeeze(-1)


class TwoBodySplineScalarEmbed(GraphModuleMixin, torch.nn.Module):
    """Scalars of an edge as splines of its length, with coefficients of each ordered type pair.

    Args:
        type_names: the T type names in order.
        num_splines: K, number of knots.
        spline_span: how many knots further a basis function ends than it begins, at most K.
        module_output_dim: number of scalars.
        forward_weight_init: for the interface of embeddings; changes nothing here.
        scalar_embed_field: the field to write.
        norm_length_field: the field to read.
        irreps_in: irreps of the input.

    Raises:
        ValueError: K or the span is out of range.
    """

    def __init__(
        self,
        type_names: Sequence[str],
        num_splines: int = 16,
        spline_span: int = 12,
        module_output_dim: int = 64,
        forward_weight_init: bool = True,
        scalar_embed_field: str = EDGE_EMBEDDING_KEY,
        norm_length_field: str = NORM_LENGTH_KEY,
        irreps_in: IrrepsIn = None,
    ) -> None:
        super().__init__()
        if not 1 <= spline_span <= num_splines:
            raise ValueError(
                f"spline_span must lie between 1 and num_splines = {num_splines}, got {spline_span}"
            )
        self.num_types = len(type_names)
        self.scalar_embed_field = scalar_embed_field
        self.norm_length_field = norm_length_field
        self._output_dtype = torch.get_default_dtype()
        self.spline = _PerPairSpline(self.num_types**2, module_output_dim, num_splines, spline_span)
        self._init_irreps(
            irreps_in=irreps_in, irreps_out={scalar_embed_field: f"{module_output_dim}x0e"}
        )

    def forward(self, data: Data) -> Data:
        """Return the data with the scalars."""
        data = with_edge_type_(data)
        centre, neighbour = data[EDGE_TYPE_KEY].unbind(0)
        pair = centre * self.num_types + neighbour
        scalars = self.spline(data[self.norm_length_field], pair)
        data[self.scalar_embed_field] = scalars.to(self._output_dtype)
        return data
