"""Type embedding: what kind of atom each one is, as scalars."""

from __future__ import annotations

import torch

from nequip_core.fields import ATOM_TYPE_KEY, NODE_ATTRS_KEY, NODE_FEATURES_KEY

__all__ = ["TypeEmbedding"]


class TypeEmbedding(torch.nn.Module):
    """Add ``node_attrs`` (N, A), a learned row a type, and start ``node_features`` with it.

    Args:
        num_types: T.
        num_features: A.
        dtype: of the (T, A) table, drawn from N(0, 1).
    """

    def __init__(self, num_types: int, num_features: int, dtype: torch.dtype) -> None:
        super().__init__()
        table = torch.empty(num_types, num_features, dtype=dtype).normal_()
        self.weight = torch.nn.Parameter(table)

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with attributes and first features."""
        data[NODE_ATTRS_KEY] = self.weight.index_select(0, data[ATOM_TYPE_KEY])
        data[NODE_FEATURES_KEY] = data[NODE_ATTRS_KEY]
        return data
