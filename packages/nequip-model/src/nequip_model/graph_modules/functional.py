"""Functions that graph modules share: sums over edges, edge geometry, order of components."""

from __future__ import annotations

from typing import Any

import torch
from e3nn.o3._irreps import Irrep, Irreps

from nequip_core.fields import (
    ATOM_TYPE_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    EDGE_LENGTH_KEY,
    EDGE_TYPE_KEY,
    EDGE_VECTORS_KEY,
)
from nequip_model.nn.geometry import edge_vectors

__all__ = [
    "ir_mul_to_mul_ir",
    "mul_ir_to_ir_mul",
    "scatter",
    "tp_path_exists",
    "with_edge_type_",
    "with_edge_vectors_",
]

Data = dict[str, torch.Tensor]


def scatter(
    src: torch.Tensor,
    index: torch.Tensor,
    dim: int = -1,
    out: torch.Tensor | None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> torch.Tensor:
    """Return the rows of `src` along `dim`, reduced by where `index` sends them.

    Args:
        src: values.
        index: target of each row, one-dimensional.
        dim: the axis of `src` that `index` runs along.
        out: tensor to add to, for ``sum``.
        dim_size: size of the result along `dim`; default ``index.max() + 1``.
        reduce: ``sum``, ``mean``, ``min`` or ``max``; a target without rows is zero.

    Raises:
        ValueError: another reduction is asked for, or `out` is given with one that is no sum.
    """
    if reduce not in ("sum", "mean", "min", "max"):
        raise ValueError(f"reduce must be sum, mean, min or max, got {reduce!r}")
    if out is not None and reduce != "sum":
        raise ValueError(f"out is for reduce='sum', not for {reduce!r}")
    dim = dim % src.dim()
    if out is None:
        size = list(src.shape)
        if dim_size is None:
            dim_size = int(index.max()) + 1 if index.numel() else 0
        size[dim] = dim_size
        out = src.new_zeros(size)
    if reduce == "sum":
        return out.index_add(dim, index, src)
    shape = [1] * src.dim()
    shape[dim] = -1
    if reduce == "mean":
        counts = torch.bincount(index, minlength=out.shape[dim]).clamp(min=1)
        return out.index_add(dim, index, src) / counts.reshape(shape).to(src.dtype)
    targets = index.reshape(shape).expand_as(src)
    return out.scatter_reduce(dim, targets, src, f"a{reduce}", include_self=False)


def with_edge_vectors_(
    data: Data,
    with_lengths: bool = True,
    edge_index_field: str = EDGE_INDEX_KEY,
    edge_cell_shift_field: str = EDGE_CELL_SHIFT_KEY,
    edge_vec_field: str = EDGE_VECTORS_KEY,
    edge_len_field: str = EDGE_LENGTH_KEY,
) -> Data:
    """Add edge vectors (E, 3) and, if asked, edge lengths (E, 1) in place where they are missing.

    The vector of an edge points from its centre to its neighbour, d = pos[neighbour] - pos[centre]
    + shift @ cell, length.
    """
    if edge_vec_field not in data:
        data[edge_vec_field] = edge_vectors(data, edge_index_field, edge_cell_shift_field)
    if with_lengths and edge_len_field not in data:
        data[edge_len_field] = data[edge_vec_field].square().sum(-1, keepdim=True).sqrt()
    return data


def with_edge_type_(data: Data, edge_type_field: str = EDGE_TYPE_KEY) -> Data:
    """Add the types of each edge's centre and neighbour, (2, E), in place if missing."""
    if edge_type_field not in data:
        edges = data[EDGE_INDEX_KEY]
        types = data[ATOM_TYPE_KEY].reshape(-1)
        data[edge_type_field] = types.index_select(0, edges.reshape(-1)).reshape(2, -1)
    return data


def tp_path_exists(irreps_in1: Any, irreps_in2: Any, ir_out: Any) -> bool:
    """Return whether some irrep of the first times some of the second holds `ir_out`."""
    wanted = Irrep(ir_out)
    return any(
        wanted in ir1 * ir2
        for _, ir1 in Irreps(irreps_in1).simplify()
        for _, ir2 in Irreps(irreps_in2).simplify()
    )


def _transposed(x: torch.Tensor, irreps: Any, channels_first: bool) -> torch.Tensor:
    """Return `x` with the two axes of every block swapped."""
    parts = []
    for part, (mul, ir) in zip(
        torch.split(x, [mul * ir.dim for mul, ir in Irreps(irreps)], dim=-1),
        Irreps(irreps),
        strict=True,
    ):
        shape = (mul, ir.dim) if channels_first else (ir.dim, mul)
        parts.append(part.unflatten(-1, shape).transpose(-1, -2).flatten(-2))
    return torch.cat(parts, dim=-1)


def mul_ir_to_ir_mul(x: torch.Tensor, irreps: Any) -> torch.Tensor:
    """Return (..., dim) features with the component slow and the channel fast in each block."""
    return _transposed(x, irreps, channels_first=True)


def ir_mul_to_mul_ir(x: torch.Tensor, irreps: Any) -> torch.Tensor:
    """Return (..., dim) features with the channel slow and the component fast in each block."""
    return _transposed(x, irreps, channels_first=False)
