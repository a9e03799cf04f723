"""Transforms that add a neighbor list, sort it, or take edges out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.cutoffs import PartialCutoffs, cutoff_table
from nequip_core.errors import ConfigError, DataError
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    EDGE_TRANSPOSE_PERM_KEY,
)
from nequip_core.frames import Frame, num_nodes
from nequip_core.neighbors import (
    DEFAULT_BACKEND,
    SkinnedNeighborList,
    edge_order,
    edge_vectors,
    keep_edges_,
)

__all__ = [
    "NeighborListPruneTransform",
    "NeighborListTransform",
    "SortedNeighborListTransform",
    "prune_edges_",
]


class NeighborListPruneTransform(torch.nn.Module):
    """Drop the edges longer than the cutoff of their type pair, from every edge field.

    Args:
        r_max: cutoff of the pairs that are not named, length; it drops no edge by itself where
            no shorter cutoff is given.
        per_edge_type_cutoff: shorter cutoffs of type pairs, see `nequip_core.cutoffs`.
        type_names: the model's type names in order.

    Raises:
        ConfigError: the type names are missing, or the cutoffs do not fit them.
    """

    def __init__(
        self,
        r_max: float,
        per_edge_type_cutoff: PartialCutoffs | None,
        type_names: Sequence[str] | None,
    ) -> None:
        super().__init__()
        self.r_max = float(r_max)
        table = None
        if per_edge_type_cutoff is not None:
            if type_names is None:
                raise ConfigError("per_edge_type_cutoff needs 'type_names' as well")
            rows = cutoff_table(per_edge_type_cutoff, type_names, self.r_max)
            table = torch.tensor(rows, dtype=torch.float64)
        self.register_buffer("cutoffs", table)
        self.cutoffs: torch.Tensor | None

    def forward(self, data: Frame) -> Frame:
        """Return the frame or batch without the edges that are too long.

        Raises:
            DataError: there is no neighbor list, or there are no ``atom_types``.
        """
        return data if self.cutoffs is None else prune_edges_(data, self.cutoffs)


class NeighborListTransform(NeighborListPruneTransform):
    """Add a neighbor list, see `nequip_core.neighbors`.

    Args:
        r_max: cutoff radius, length.
        per_edge_type_cutoff: shorter cutoffs of type pairs, see `nequip_core.cutoffs`; needs
            `type_names`, and ``atom_types`` in the data.
        type_names: the model's type names in order.
        backend: neighbor-list backend by name.
        skin: keep the list for structures that follow each other, see `SkinnedNeighborList`;
            length.
        backend_kwargs: options of a backend that has some.

    Raises:
        ConfigError: the type names are missing, or the cutoffs do not fit them, or the skin is
            negative.
        DataError: `r_max` is not positive.
    """

    def __init__(
        self,
        r_max: float,
        per_edge_type_cutoff: PartialCutoffs | None = None,
        type_names: Sequence[str] | None = None,
        backend: str = DEFAULT_BACKEND,
        skin: float = 0.0,
        backend_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(r_max, per_edge_type_cutoff, type_names)
        self.backend = backend
        self.neighbor_list = SkinnedNeighborList(self.r_max, skin, backend, backend_kwargs)

    def forward(self, data: Frame) -> Frame:
        """Return the frame or batch with ``edge_index`` and, with a cell, ``edge_cell_shift``."""
        return super().forward(self.neighbor_list(data))


class SortedNeighborListTransform(NeighborListTransform):
    """Add a neighbor list and ``edge_transpose_perm`` (E,), its permutation to column-major order.

    The list is sorted by centre, then neighbour, as every list is. Taken in the order of the
    permutation it is sorted by neighbour, then centre; where all edges are there in both
    directions, that is the reverse of each edge: ``edge_index[:, perm]`` is ``edge_index`` with
    its rows exchanged, and ``edge_cell_shift[perm]`` is ``-edge_cell_shift``.

    Args:
        r_max: see `NeighborListTransform`.
        per_edge_type_cutoff: see `NeighborListTransform`.
        type_names: see `NeighborListTransform`.
        backend: see `NeighborListTransform`.
        backend_kwargs: see `NeighborListTransform`.
    """

    def __init__(
        self,
        r_max: float,
        per_edge_type_cutoff: PartialCutoffs | None = None,
        type_names: Sequence[str] | None = None,
        backend: str = DEFAULT_BACKEND,
        backend_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            r_max, per_edge_type_cutoff, type_names, backend, backend_kwargs=backend_kwargs
        )

    def forward(self, data: Frame) -> Frame:
        """Return the frame or batch with the list and its permutation."""
        data = super().forward(data)
        centre, neighbour = data[EDGE_INDEX_KEY]
        shifts = -data[EDGE_CELL_SHIFT_KEY] if EDGE_CELL_SHIFT_KEY in data else None
        data[EDGE_TRANSPOSE_PERM_KEY] = edge_order(neighbour, centre, shifts, num_nodes(data))
        return data


def prune_edges_(data: Frame, cutoffs: torch.Tensor) -> Frame:
    """Drop the edges longer than the cutoff of their type pair, in place.

    Args:
        data: a frame or batch with a neighbor list and ``atom_types``.
        cutoffs: (T, T) table ``[centre, neighbour]``, length.

    Raises:
        DataError: the data has no neighbor list or no ``atom_types``.
    """
    if ATOM_TYPE_KEY not in data:
        raise DataError("per_edge_type_cutoff needs 'atom_types': map species to types first")
    if EDGE_INDEX_KEY not in data:
        raise DataError("there is no neighbor list to prune: add NeighborListTransform before")
    centre, neighbour = data[EDGE_INDEX_KEY]
    types = data[ATOM_TYPE_KEY].view(-1)
    limits = cutoffs.to(types.device)[types[centre], types[neighbour]]
    return keep_edges_(data, edge_vectors(data).norm(dim=-1) <= limits)
