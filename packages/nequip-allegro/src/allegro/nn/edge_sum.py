"""From edges to atoms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.fields import ATOM_TYPE_KEY, EDGE_INDEX_KEY
from nequip_model.graph_modules.functional import scatter
from nequip_model.graph_modules.mixin import GraphModuleMixin
from nequip_model.per_type import per_type_values

__all__ = ["EdgewiseReduce", "NeighborNorm"]


class NeighborNorm(torch.nn.Module):
    """Rows of atoms divided by the root of the average number of neighbours, by type if given so.

    Args:
        type_names: the T type names in order.
        avg_num_neighbors: a number, or one for every type.

    Raises:
        ConfigError: a type is missing or unknown.
        ValueError: the number is missing or not positive.
    """

    def __init__(
        self,
        type_names: Sequence[str],
        avg_num_neighbors: float | Mapping[str, float] | None,
    ) -> None:
        super().__init__()
        values = per_type_values("avg_num_neighbors", avg_num_neighbors, type_names)
        if values is None or min(values) <= 0.0:
            raise ValueError(
                "avg_num_neighbors must be a positive number, or one for each of "
                f"{list(type_names)}; got {avg_num_neighbors}"
            )
        factors = [1.0 / math.sqrt(value) for value in values]
        self.register_buffer("norm_const", torch.tensor(factors).unsqueeze(-1), persistent=False)
        self.norm_const: torch.Tensor

    def forward(self, rows: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Return normalised rows, (N, ...), of atoms with `types` (N,)."""
        norm = self.norm_const
        if norm.shape[0] > 1:
            norm = norm.index_select(0, types)
        return rows * norm.reshape(-1, *([1] * (rows.dim() - 1)))


class EdgewiseReduce(GraphModuleMixin, torch.nn.Module):
    """Reduce a field of edges over the edges of each centre, to one row an atom.

    Args:
        field: the field to read, (E, ...).
        out_field: the field to write, (N, ...); default ``<reduce>_<field>``.
        avg_num_neighbors: average number of neighbours, a number or one for every type: sums are
            divided by the square root of twice this number, since every pair is two edges. None
            for plain sums.
        type_names: the T type names in order; needed with `avg_num_neighbors`.
        reduce: ``sum``, ``mean``, ``min`` or ``max``; an atom without edges has zero.
        irreps_in: irreps of the input, with those of `field`.

    Raises:
        ValueError: another reduction is asked for, or a normalization that is no sum's.
    """

    def __init__(
        self,
        field: str,
        out_field: str | None = None,
        avg_num_neighbors: float | Mapping[str, float] | None = None,
        type_names: Sequence[str] | None = None,
        reduce: str = "sum",
        irreps_in: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if reduce not in ("sum", "mean", "min", "max"):
            raise ValueError(f"reduce must be sum, mean, min or max, got {reduce!r}")
        if avg_num_neighbors is not None and reduce != "sum":
            raise ValueError(f"avg_num_neighbors normalises sums, not reduce={reduce!r}")
        self.field = field
        self.out_field = f"{reduce}_{field}" if out_field is None else out_field
        self.reduce = reduce
        self.norm_module: NeighborNorm | None = None
        if avg_num_neighbors is not None:
            self.norm_module = NeighborNorm(type_names or [], avg_num_neighbors)
        known = irreps_in or {}
        self._init_irreps(
            irreps_in=irreps_in,
            irreps_out={self.out_field: known[field]} if field in known else {},
        )

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with the output field."""
        types = data[ATOM_TYPE_KEY].reshape(-1)
        centre = data[EDGE_INDEX_KEY][0]
        rows = scatter(data[self.field], centre, dim=0, dim_size=types.shape[0], reduce=self.reduce)
        if self.norm_module is not None:
            rows = self.norm_module(rows, types) * math.sqrt(0.5)
        data[self.out_field] = rows
        return data
