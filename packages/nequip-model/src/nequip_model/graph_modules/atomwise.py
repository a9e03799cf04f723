"""Operations on the rows of a field: linear maps, scale and shift per type, reductions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from e3nn.o3._irreps import Irreps
from e3nn.o3._linear import Linear

from nequip_core.fields import (
    ATOM_TYPE_KEY,
    BATCH_KEY,
    FEATURE_NORM_FACTOR_KEY,
    NODE_FEATURES_KEY,
    NUM_NODES_KEY,
    PER_ATOM_ENERGY_KEY,
)
from nequip_model.graph_modules.functional import scatter
from nequip_model.graph_modules.mixin import GraphModuleMixin
from nequip_model.nn import energy
from nequip_model.per_type import per_type_values

__all__ = [
    "ApplyFactor",
    "AtomwiseLinear",
    "AtomwiseOperation",
    "AtomwiseReduce",
    "AvgNumNeighborsNorm",
    "Concat",
    "PerTypeScaleShift",
    "SaveForOutput",
    "ShiftedSoftplus",
]

Data = dict[str, torch.Tensor]
IrrepsIn = Mapping[str, Any] | None


class AtomwiseOperation(GraphModuleMixin, torch.nn.Module):
    """Apply a module with attributes ``irreps_in`` and ``irreps_out`` to one field, in place."""

    def __init__(self, operation: Any, field: str, irreps_in: IrrepsIn = None) -> None:
        super().__init__()
        self.operation = operation
        self.field = field
        self._init_irreps(
            irreps_in=irreps_in,
            my_irreps_in={field: operation.irreps_in},
            irreps_out={field: operation.irreps_out},
        )

    def forward(self, data: Data) -> Data:
        """Return the data with the changed field."""
        data[self.field] = self.operation(data[self.field])
        return data


class AtomwiseLinear(GraphModuleMixin, torch.nn.Module):
    """Mix the channels of each irrep of a field, as `e3nn.o3.Linear` does.

    Args:
        field: the field to read.
        out_field: the field to write; default `field`.
        irreps_in: irreps of the input, with those of `field`.
        irreps_out: irreps of the output field, as irreps or as a mapping that names it; default
            those of `field`.
    """

    def __init__(
        self,
        field: str = NODE_FEATURES_KEY,
        out_field: str | None = None,
        irreps_in: IrrepsIn = None,
        irreps_out: Any = None,
    ) -> None:
        super().__init__()
        self.field = field
        self.out_field = field if out_field is None else out_field
        if isinstance(irreps_out, Mapping):
            irreps_out = irreps_out[self.out_field]
        if irreps_out is None:
            irreps_out = (irreps_in or {}).get(field)
        self._init_irreps(
            irreps_in=irreps_in,
            required_irreps_in=[field],
            irreps_out={self.out_field: irreps_out},
        )
        self.linear = Linear(
            irreps_in=self.irreps_in[field], irreps_out=self.irreps_out[self.out_field]
        )

    def forward(self, data: Data) -> Data:
        """Return the data with the output field."""
        data[self.out_field] = self.linear(data[self.field])
        return data


class AtomwiseReduce(GraphModuleMixin, torch.nn.Module):
    """Reduce a node field over the atoms of each frame, to one row a frame.

    Args:
        field: the field to read, (N, ...).
        out_field: the field to write, (F, ...); default ``sum_<field>`` or ``mean_<field>``.
        reduce: ``sum``, ``mean`` (the sum over the frame's number of atoms), or
            ``normalized_sum`` (the sum over the square root of `avg_num_atoms`).
        avg_num_atoms: average number of atoms of a frame, for ``normalized_sum``.
        irreps_in: irreps of the input.

    Raises:
        ValueError: another reduction is asked for, or ``normalized_sum`` without its average.
    """

    def __init__(
        self,
        field: str,
        out_field: str | None = None,
        reduce: str = "sum",
        avg_num_atoms: float | None = None,
        irreps_in: IrrepsIn = None,
    ) -> None:
        super().__init__()
        if reduce not in ("sum", "mean", "normalized_sum"):
            raise ValueError(f"reduce must be sum, mean or normalized_sum, got {reduce!r}")
        self.constant = 1.0
        if reduce == "normalized_sum":
            if not avg_num_atoms or avg_num_atoms <= 0.0:
                raise ValueError(
                    f"normalized_sum needs a positive avg_num_atoms, got {avg_num_atoms}"
                )
            self.constant = 1.0 / math.sqrt(avg_num_atoms)
        self.reduce = "mean" if reduce == "mean" else "sum"
        self.field = field
        self.out_field = f"{self.reduce}_{field}" if out_field is None else out_field
        known = irreps_in or {}
        self._init_irreps(
            irreps_in=irreps_in,
            irreps_out={self.out_field: known[field]} if field in known else {},
        )

    def forward(self, data: Data) -> Data:
        """Return the data with the output field."""
        rows = data[self.field]
        if BATCH_KEY in data:
            frames = data[NUM_NODES_KEY].shape[0]
            reduced = scatter(rows, data[BATCH_KEY], dim=0, dim_size=frames, reduce=self.reduce)
        else:
            reduced = rows.sum(dim=0, keepdim=True)
            if self.reduce == "mean":
                reduced = reduced / rows.shape[0]
        data[self.out_field] = reduced if self.constant == 1.0 else reduced * self.constant
        return data


class PerTypeScaleShift(GraphModuleMixin, energy.PerTypeScaleShift):
    """out <- shift[type] + scale[type] * field, in float64.

    Args:
        type_names: the T type names in order.
        field: the node field to read, (N, 1).
        out_field: the field to write; default `field`.
        scales: a number, a number for every type, or None for no scaling.
        shifts: a number, a number for every type, or None for no shift.
        scales_trainable: make the scales trainable, one a type.
        shifts_trainable: make the shifts trainable, one a type.
        irreps_in: irreps of the input.

    Raises:
        ConfigError: a type is missing or unknown, or a value is not a finite number.
    """

    def __init__(
        self,
        type_names: Sequence[str],
        field: str,
        out_field: str | None = None,
        scales: float | Mapping[str, float] | None = None,
        shifts: float | Mapping[str, float] | None = None,
        scales_trainable: bool = False,
        shifts_trainable: bool = False,
        irreps_in: IrrepsIn = None,
    ) -> None:
        tables = []
        for name, values, trainable in (
            ("scales", scales, scales_trainable),
            ("shifts", shifts, shifts_trainable),
        ):
            table = per_type_values(name, values, type_names)
            if table is not None and trainable and len(table) == 1:
                table = table * len(type_names)
            tables.append(table)
        super().__init__(tables[0], tables[1], scales_trainable, shifts_trainable)
        for name, table in zip(("scales", "shifts"), tables, strict=True):
            if table is None:
                # The shape and dtype that published checkpoints have.
                self.register_buffer(name, torch.zeros(0))
        self.type_names = list(type_names)
        self.field = field
        self.out_field = field if out_field is None else out_field
        self._init_irreps(
            irreps_in=irreps_in,
            my_irreps_in={field: Irreps("1x0e")},
            irreps_out={self.out_field: Irreps("1x0e")},
        )

    def forward(self, data: Data) -> Data:
        """Return the data with the output field in float64."""
        given = {PER_ATOM_ENERGY_KEY: data[self.field], ATOM_TYPE_KEY: data[ATOM_TYPE_KEY]}
        data[self.out_field] = super().forward(given)[PER_ATOM_ENERGY_KEY]
        return data


class AvgNumNeighborsNorm(torch.nn.Module):
    """``node_features`` / sqrt(avg_num_neighbors), by the atom's type where given per type.

    Args:
        type_names: the T type names in order.
        avg_num_neighbors: average number of neighbours, a number or one for every type.

    Raises:
        ConfigError: it is missing, incomplete or not positive.
    """

    def __init__(
        self, type_names: Sequence[str], avg_num_neighbors: float | Mapping[str, float] | None
    ) -> None:
        super().__init__()
        values = per_type_values("avg_num_neighbors", avg_num_neighbors, type_names)
        if values is None or min(values) <= 0.0:
            raise ValueError(
                "avg_num_neighbors must be specified: a positive number, or one for each of "
                f"{list(type_names)}; got {avg_num_neighbors}"
            )
        norm = torch.tensor(values, dtype=torch.float64).rsqrt().to(torch.get_default_dtype())
        self.register_buffer("norm_const", norm.unsqueeze(-1), persistent=False)
        self.norm_const: torch.Tensor

    def forward(self, data: Data) -> Data:
        """Return the data with the normalised ``node_features`` and the factor."""
        norm = self.norm_const
        if norm.shape[0] > 1:
            norm = norm.index_select(0, data[ATOM_TYPE_KEY])
        features = data[NODE_FEATURES_KEY]
        data[FEATURE_NORM_FACTOR_KEY] = norm.expand(features.shape[0], 1)
        data[NODE_FEATURES_KEY] = features * norm
        return data


class Concat(GraphModuleMixin, torch.nn.Module):
    """Put fields side by side along the last axis."""

    def __init__(
        self, in_fields: Sequence[str], out_field: str, irreps_in: IrrepsIn = None
    ) -> None:
        super().__init__()
        self.in_fields = list(in_fields)
        self.out_field = out_field
        self._init_irreps(irreps_in=irreps_in, required_irreps_in=self.in_fields)
        parts = [self.irreps_in[field] or Irreps() for field in self.in_fields]
        self.irreps_out[out_field] = sum(parts, Irreps())

    def forward(self, data: Data) -> Data:
        """Return the data with the output field."""
        data[self.out_field] = torch.cat([data[field] for field in self.in_fields], dim=-1)
        return data


class ApplyFactor(GraphModuleMixin, torch.nn.Module):
    """Multiply a field by a constant."""

    def __init__(
        self, in_field: str, factor: float, out_field: str | None = None, irreps_in: IrrepsIn = None
    ) -> None:
        super().__init__()
        self.in_field = in_field
        self.out_field = in_field if out_field is None else out_field
        self.factor = float(factor)
        self._init_irreps(irreps_in=irreps_in, required_irreps_in=[in_field])
        self.irreps_out[self.out_field] = self.irreps_in[in_field]

    def forward(self, data: Data) -> Data:
        """Return the data with the output field."""
        data[self.out_field] = data[self.in_field] * self.factor
        return data


class SaveForOutput(GraphModuleMixin, torch.nn.Module):
    """Keep a field under a second name, where later modules do not change it."""

    def __init__(self, field: str, out_field: str, irreps_in: IrrepsIn = None) -> None:
        super().__init__()
        self.field = field
        self.out_field = out_field
        self._init_irreps(irreps_in=irreps_in, required_irreps_in=[field])
        self.irreps_out[out_field] = self.irreps_in[field]

    def forward(self, data: Data) -> Data:
        """Return the data with the copy, detached from what later modules do in place."""
        data[self.out_field] = data[self.field].clone()
        return data


class ShiftedSoftplus(torch.nn.Module):
    """x -> ln(1 + exp x) - ln 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the values."""
        return torch.nn.functional.softplus(x) - math.log(2.0)
