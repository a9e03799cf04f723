"""Embeddings of edges: normed lengths, cutoff, radial basis, spherical harmonics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from e3nn.o3._irreps import Irreps

from nequip_core.cutoffs import PartialCutoffs, cutoff_table
from nequip_core.fields import (
    EDGE_ATTRS_KEY,
    EDGE_CUTOFF_KEY,
    EDGE_EMBEDDING_KEY,
    EDGE_LENGTH_KEY,
    EDGE_TYPE_KEY,
    EDGE_VECTORS_KEY,
    NORM_LENGTH_KEY,
)
from nequip_model.graph_modules.functional import with_edge_type_, with_edge_vectors_
from nequip_model.graph_modules.mixin import GraphModuleMixin
from nequip_model.nn.radial import polynomial_cutoff
from nequip_model.nn.spherical_harmonics import spherical_harmonics

__all__ = [
    "AddRadialCutoffToData",
    "BesselEdgeLengthEncoding",
    "EdgeLengthNormalizer",
    "PolynomialCutoff",
    "SphericalHarmonicEdgeAttrs",
]

Data = dict[str, torch.Tensor]
IrrepsIn = Mapping[str, Any] | None


class EdgeLengthNormalizer(GraphModuleMixin, torch.nn.Module):
    """Add edge vectors, lengths and normed lengths r / r_cut (E, 1), dimensionless, float64.

    Args:
        r_max: global cutoff, length.
        type_names: the T type names in order.
        per_edge_type_cutoff: shorter cutoffs of type pairs, see `nequip_core.cutoffs`.
        edge_type_field: where the types of an edge's ends go, if cutoffs are per pair.
        norm_length_field: the field to write.
        irreps_in: irreps of the input.

    Raises:
        ValueError: a type of `per_edge_type_cutoff` is unknown or a cutoff not in (0, r_max].
    """

    def __init__(
        self,
        r_max: float,
        type_names: Sequence[str],
        per_edge_type_cutoff: PartialCutoffs | None = None,
        edge_type_field: str = EDGE_TYPE_KEY,
        norm_length_field: str = NORM_LENGTH_KEY,
        irreps_in: IrrepsIn = None,
    ) -> None:
        super().__init__()
        self.r_max = float(r_max)
        self.num_types = len(type_names)
        self.edge_type_field = edge_type_field
        self.norm_length_field = norm_length_field
        cutoffs = torch.tensor(self.r_max, dtype=torch.float64)
        added: dict[str, Any] = {norm_length_field: Irreps("1x0e")}
        self.by_pair = per_edge_type_cutoff is not None
        if per_edge_type_cutoff is not None:
            table = cutoff_table(per_edge_type_cutoff, type_names, self.r_max)
            cutoffs = torch.tensor(table, dtype=torch.float64).reshape(-1)
            added[edge_type_field] = None
        self.register_buffer("_rmax_recip", cutoffs.reciprocal())
        self._rmax_recip: torch.Tensor
        self._init_irreps(irreps_in=irreps_in, irreps_out=added)

    def forward(self, data: Data) -> Data:
        """Return the data with the edge geometry."""
        data = with_edge_vectors_(data, with_lengths=True)
        reciprocal = self._rmax_recip
        if self.by_pair:
            data = with_edge_type_(data, edge_type_field=self.edge_type_field)
            types = data[self.edge_type_field]
            pair = types[0] * self.num_types + types[1]
            reciprocal = reciprocal.index_select(0, pair).unsqueeze(-1)
        data[self.norm_length_field] = data[EDGE_LENGTH_KEY] * reciprocal
        return data


class PolynomialCutoff(torch.nn.Module):
    """The envelope u(x) of `nequip_model.nn.radial.polynomial_cutoff`.

    Args:
        p: order, at least 2.

    Raises:
        ValueError: the order is below 2.
    """

    def __init__(self, p: float = 6) -> None:
        super().__init__()
        if p < 2.0:
            raise ValueError(f"the order of a polynomial cutoff must be at least 2, got {p}")
        self.p = float(p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return u of the normed lengths."""
        return polynomial_cutoff(x, self.p)


class AddRadialCutoffToData(GraphModuleMixin, torch.nn.Module):
    """Add ``edge_cutoff`` (E, 1), in torch's default dtype at construction.

    Args:
        cutoff: from normed lengths to the envelope.
        norm_length_field: the field to read.
        irreps_in: irreps of the input.
    """

    def __init__(
        self,
        cutoff: torch.nn.Module,
        norm_length_field: str = NORM_LENGTH_KEY,
        irreps_in: IrrepsIn = None,
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.norm_length_field = norm_length_field
        self._output_dtype = torch.get_default_dtype()
        self._init_irreps(irreps_in=irreps_in, irreps_out={EDGE_CUTOFF_KEY: Irreps("1x0e")})

    def forward(self, data: Data) -> Data:
        """Return the data with the envelope, unless it is there already."""
        if EDGE_CUTOFF_KEY not in data:
            envelope = self.cutoff(data[self.norm_length_field])
            data[EDGE_CUTOFF_KEY] = envelope.to(self._output_dtype)
        return data


class BesselEdgeLengthEncoding(GraphModuleMixin, torch.nn.Module):
    """Add the radial basis b_k sinc(b_k x) u(x) (E, B), dimensionless, and ``edge_cutoff`` (E, 1).

    sinc(t) = sin(pi t) / (pi t), and b_k = k unless trained. Both are computed in float64 and cast
    to torch's default dtype at construction.

    Args:
        cutoff: the envelope u.
        num_bessels: B.
        trainable: make the roots b_k trainable.
        edge_invariant_field: the field to write.
        norm_length_field: the field to read.
        irreps_in: irreps of the input.

    Source: Gasteiger, Gross, Guennemann, ICLR 2020 (arXiv:2003.03123), equation 7.
    """

    def __init__(
        self,
        cutoff: torch.nn.Module,
        num_bessels: int = 8,
        trainable: bool = False,
        edge_invariant_field: str = EDGE_EMBEDDING_KEY,
        norm_length_field: str = NORM_LENGTH_KEY,
        irreps_in: IrrepsIn = None,
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.num_bessels = num_bessels
        self.edge_invariant_field = edge_invariant_field
        self.norm_length_field = norm_length_field
        self._output_dtype = torch.get_default_dtype()
        roots = torch.linspace(1.0, num_bessels, num_bessels, dtype=torch.float64).unsqueeze(0)
        self.bessel_weights: torch.Tensor
        if trainable:
            self.register_parameter("bessel_weights", torch.nn.Parameter(roots))
        else:
            self.register_buffer("bessel_weights", roots)
        self._init_irreps(
            irreps_in=irreps_in,
            irreps_out={
                edge_invariant_field: Irreps([(num_bessels, (0, 1))]),
                EDGE_CUTOFF_KEY: Irreps("1x0e"),
            },
        )

    def forward(self, data: Data) -> Data:
        """Return the data with the basis and the envelope."""
        x = data[self.norm_length_field]
        bessel = (torch.sinc(x * self.bessel_weights) * self.bessel_weights).to(self._output_dtype)
        envelope = self.cutoff(x).to(self._output_dtype)
        data[EDGE_CUTOFF_KEY] = envelope
        data[self.edge_invariant_field] = bessel * envelope
        return data


class SphericalHarmonicEdgeAttrs(GraphModuleMixin, torch.nn.Module):
    """Add the real spherical harmonics of the edge vectors, in e3nn's conventions.

    Evaluated in float64 and cast to torch's default dtype at construction.

    Args:
        irreps_edge_sh: highest degree, or irreps with one copy each of parity (-1)^l.
        edge_sh_normalization: squares of a degree sum to 2l+1 (``component``), to one (``norm``),
            or to (2l+1) / 4 pi (``integral``).
        edge_sh_normalize: of directions, or else times r^l.
        irreps_in: irreps of the input.
        out_field: the field to write.

    Raises:
        ValueError: the irreps are not those of spherical harmonics, or a normalization is unknown.
    """

    def __init__(
        self,
        irreps_edge_sh: Any,
        edge_sh_normalization: str = "component",
        edge_sh_normalize: bool = True,
        irreps_in: IrrepsIn = None,
        out_field: str = EDGE_ATTRS_KEY,
    ) -> None:
        super().__init__()
        if isinstance(irreps_edge_sh, int):
            irreps = Irreps.spherical_harmonics(irreps_edge_sh)
        else:
            irreps = Irreps(irreps_edge_sh)
        if any(mul != 1 or ir.p != (-1) ** ir.l for mul, ir in irreps):
            raise ValueError(f"not irreps of spherical harmonics, 1x0e + 1x1o + 1x2e...: {irreps}")
        if edge_sh_normalization not in ("component", "norm", "integral"):
            raise ValueError(
                "edge_sh_normalization must be component, norm or integral, "
                f"got {edge_sh_normalization!r}"
            )
        self.degrees = [ir.l for _, ir in irreps]
        factors = {
            "component": [1.0 for _ in self.degrees],
            "norm": [1.0 / math.sqrt(2 * l + 1) for l in self.degrees],
            "integral": [1.0 / math.sqrt(4.0 * math.pi) for _ in self.degrees],
        }
        self.factors = factors[edge_sh_normalization]
        self.normalize = edge_sh_normalize
        self.out_field = out_field
        self._output_dtype = torch.get_default_dtype()
        self._init_irreps(irreps_in=irreps_in, irreps_out={out_field: irreps})

    def forward(self, data: Data) -> Data:
        """Return the data with the harmonics, (E, sum of 2l+1)."""
        data = with_edge_vectors_(data, with_lengths=True)
        lengths = data[EDGE_LENGTH_KEY]
        every = spherical_harmonics(max(self.degrees), data[EDGE_VECTORS_KEY] / lengths)
        parts = []
        for degree, factor in zip(self.degrees, self.factors, strict=True):
            part = every[:, degree**2 : (degree + 1) ** 2] * factor
            parts.append(part if self.normalize else part * lengths.pow(degree))
        data[self.out_field] = torch.cat(parts, dim=-1).to(self._output_dtype)
        return data
