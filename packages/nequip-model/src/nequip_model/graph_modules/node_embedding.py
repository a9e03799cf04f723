"""Embedding of atoms: their type, and whole numbers of their frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from e3nn.o3._irreps import Irreps

from nequip_core.fields import ATOM_TYPE_KEY, BATCH_KEY, NODE_ATTRS_KEY, NODE_FEATURES_KEY
from nequip_model.graph_modules.mixin import GraphModuleMixin

__all__ = ["NodeTypeEmbed"]

Data = dict[str, torch.Tensor]


class NodeTypeEmbed(GraphModuleMixin, torch.nn.Module):
    """Add ``node_attrs`` (N, A), a learned row a type.

    Args:
        type_names: the T type names in order.
        num_features: scalars of the type.
        type_embed_init: None for N(0, 1), ``uniform`` in +-sqrt(3), ``near_zero`` for
            N(0, 1e-5), or ``zero``.
        set_features: start ``node_features`` with them.
        categorical_graph_field_embed: whole numbers of the frame to embed beside the type, each
            ``{field, num_features, min, max, init}``.
        irreps_in: irreps of the input.

    Raises:
        ValueError: an initialisation is unknown, or a range is empty.
    """

    def __init__(
        self,
        type_names: Sequence[str],
        num_features: int,
        type_embed_init: str | None = None,
        set_features: bool = True,
        categorical_graph_field_embed: Sequence[Mapping[str, Any]] | None = None,
        irreps_in: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.set_features = set_features
        self.embed_module = _table(len(type_names), num_features, type_embed_init)
        self.categorical_graph_field_embed_modules = torch.nn.ModuleDict()
        self.offsets: dict[str, int] = {}
        width = num_features
        for entry in categorical_graph_field_embed or ():
            rows = int(entry["max"]) - int(entry["min"]) + 1
            if rows < 1:
                raise ValueError(
                    f"the range of '{entry['field']}' is empty: {entry['min']} to {entry['max']}"
                )
            table = _table(rows, int(entry["num_features"]), entry.get("init"))
            self.categorical_graph_field_embed_modules[entry["field"]] = table
            self.offsets[entry["field"]] = int(entry["min"])
            width += int(entry["num_features"])
        scalars = Irreps([(width, (0, 1))])
        fields = (NODE_ATTRS_KEY, NODE_FEATURES_KEY) if set_features else (NODE_ATTRS_KEY,)
        self._init_irreps(
            irreps_in={**(irreps_in or {}), **dict.fromkeys(self.offsets)},
            irreps_out=dict.fromkeys(fields, scalars),
        )

    def forward(self, data: Data) -> Data:
        """Return the data with attributes and, if asked for, first features."""
        types = data[ATOM_TYPE_KEY].reshape(-1)
        parts = [self.embed_module(types)]
        for field, table in self.categorical_graph_field_embed_modules.items():
            rows = table(data[field].reshape(-1).long() - self.offsets[field])
            if BATCH_KEY in data:
                parts.append(rows.index_select(0, data[BATCH_KEY]))
            else:
                parts.append(rows.expand(types.shape[0], -1))
        data[NODE_ATTRS_KEY] = torch.cat(parts, dim=-1)
        if self.set_features:
            data[NODE_FEATURES_KEY] = data[NODE_ATTRS_KEY]
        return data


def _table(rows: int, width: int, init: str | None) -> torch.nn.Embedding:
    """Return a table of learned rows."""
    if init not in (None, "uniform", "near_zero", "zero"):
        raise ValueError(
            f"the initialisation must be uniform, near_zero, zero or None, got {init!r}"
        )
    table = torch.nn.Embedding(rows, width)
    if init == "uniform":
        torch.nn.init.uniform_(table.weight, -math.sqrt(3.0), math.sqrt(3.0))
    elif init == "near_zero":
        torch.nn.init.normal_(table.weight, std=1e-5)
    elif init == "zero":
        torch.nn.init.zeros_(table.weight)
    return table
