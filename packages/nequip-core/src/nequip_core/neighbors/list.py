"""Making a neighbor list and taking edges out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from nequip_core.errors import ConfigError, DataError, PluginError
from nequip_core.fields import (
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    EDGE_TRANSPOSE_PERM_KEY,
    POSITIONS_KEY,
    get_field_type,
)
from nequip_core.frames import Frame, num_nodes
from nequip_core.neighbors.backends import (
    DEFAULT_BACKEND,
    neighborlist_backend,
    require_options,
)
from nequip_core.neighbors.geometry import check_positions

__all__ = ["checked_cutoff", "compute_neighborlist_", "drop_edges_", "edge_order", "keep_edges_"]


def checked_cutoff(r_max: float) -> float:
    """Return the cutoff radius as a float.

    Raises:
        DataError: it is not a positive, finite number.
    """
    if not (math.isfinite(r_max) and r_max > 0.0):
        raise DataError(f"the cutoff radius must be positive and finite, got {r_max}")
    return float(r_max)


def compute_neighborlist_(
    data: Frame,
    r_max: float,
    backend: str = DEFAULT_BACKEND,
    backend_kwargs: Mapping[str, Any] | None = None,
) -> Frame:
    """Add ``edge_index`` (2, E) and, where there is a cell, ``edge_cell_shift`` (E, 3) in place.

    Pairs at a distance of `r_max`, to rounding, may be in the list or not, but always in both
    directions or in none. Edge fields of an earlier list are dropped.

    Args:
        data: a frame or a batch; ``pbc`` (3,) or (F, 3) and ``cell`` (3, 3) or (F, 3, 3) are
            optional.
        r_max: cutoff radius, in the unit of the positions.
        backend: name of a backend, see `nequip_core.neighbors`.
        backend_kwargs: options of this backend; the built-in ones have none.

    Raises:
        DataError: positions or cell are not finite, or the cell does not fit the periodicity, or
            the cutoff is not positive.
        ConfigError: there is no such backend, it does not run on the device of the data, or it
            does not have such an option.
        MissingDependencyError: the backend's library is not installed.
    """
    r_max = checked_cutoff(r_max)
    spec = neighborlist_backend(backend)
    options = dict(backend_kwargs or {})
    if options:
        require_options(backend, spec, options)
    check_positions(data)
    drop_edges_(data)
    positions = data[POSITIONS_KEY]
    on_cpu = positions.device.type == "cpu"
    if on_cpu and not spec.supports_cpu:
        raise ConfigError(
            f"the neighbor-list backend '{backend}' needs data on a CUDA device, not on the CPU"
        )
    given = dict(data)
    if not (on_cpu or (positions.device.type == "cuda" and spec.supports_cuda)):
        given = {key: value.cpu() for key, value in data.items()}
    found = spec.fn(given, r_max, **options)
    if EDGE_INDEX_KEY not in found or (CELL_KEY in data and EDGE_CELL_SHIFT_KEY not in found):
        raise PluginError(
            f"the neighbor-list backend '{backend}' must return '{EDGE_INDEX_KEY}' and, where "
            f"there is a cell, '{EDGE_CELL_SHIFT_KEY}'; it returned {sorted(found)}"
        )
    edges = found[EDGE_INDEX_KEY].long()
    shifts = found[EDGE_CELL_SHIFT_KEY] if CELL_KEY in data else None
    order = edge_order(edges[0], edges[1], shifts, num_nodes(data))
    data[EDGE_INDEX_KEY] = edges.index_select(1, order).to(positions.device)
    if shifts is not None:
        shifts = shifts.index_select(0, order)
        data[EDGE_CELL_SHIFT_KEY] = shifts.to(positions.device, positions.dtype)
    return data


def drop_edges_(data: Frame) -> Frame:
    """Drop the list and every edge field, in place."""
    for key in list(data):
        kind = get_field_type(key, error_on_unregistered=False)
        if kind == "edge" or EDGE_INDEX_KEY in key or key == EDGE_TRANSPOSE_PERM_KEY:
            del data[key]
    return data


def edge_order(
    first: torch.Tensor, second: torch.Tensor, shifts: torch.Tensor | None, atoms: int
) -> torch.Tensor:
    """Return the order (E,) of edges by `first` atom, `second` atom, then shift.

    Args:
        first: (E,) int64.
        second: (E,) int64.
        shifts: (E, 3) whole numbers, or None where there is no cell.
        atoms: number of atoms.
    """
    key, room = first * atoms + second, atoms**2
    if shifts is not None and len(first):
        low, high = torch.aminmax(shifts, dim=0)
        for column, least, most in zip(shifts.T, low.tolist(), high.tolist(), strict=True):
            least, most = int(least), int(most)
            if most > least:
                key = key * (most - least + 1) + (column.long() - least)
                room *= most - least + 1
    if room >= 2**63:  # atoms far outside of their cells: one number cannot hold it all
        order = torch.arange(len(first), device=first.device)
        for column in (*(shifts.flip(1).T if shifts is not None else ()), second, first):
            order = order[column[order].argsort(stable=True)]
        return order
    # No two edges are alike, so any kind of sort gives the same order; numpy's is the faster one.
    return key.argsort() if key.device.type != "cpu" else torch.from_numpy(np.argsort(key.numpy()))


def keep_edges_(data: Frame, keep: torch.Tensor) -> Frame:
    """Drop the edges that are not in the mask `keep` (E,) from every edge field, in place."""
    kept = keep.nonzero().squeeze(-1)  # selecting rows is faster than masking them
    for key in list(data):
        if EDGE_INDEX_KEY in key:
            data[key] = torch.stack([row.index_select(0, kept) for row in data[key]])
        elif key == EDGE_TRANSPOSE_PERM_KEY:
            order = data[key]
            data[key] = (keep.cumsum(0) - 1)[order[keep[order]]]
        elif get_field_type(key, error_on_unregistered=False) == "edge":
            data[key] = data[key].index_select(0, kept)
    return data
