"""Type embedding: what kind of atom each one is, and in what kind of frame, as scalars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.fields import ATOM_TYPE_KEY, BATCH_KEY, NODE_ATTRS_KEY, NODE_FEATURES_KEY

__all__ = ["TypeEmbedding"]


class TypeEmbedding(torch.nn.Module):
    """Add ``node_attrs`` (N, A), learned rows of an atom, and start ``node_features`` with them.

    A row of the atom's type, then for each categorical graph field a row of the value that the
    atom's frame has, all side by side.

    Args:
        num_types: T.
        num_features: attributes of the type.
        dtype: of the (T, num_features) table, drawn from N(0, 1), and of those of the fields.
        graph_fields: integer graph fields (F, 1), each a mapping with its name ``field``,
            ``num_features``, the smallest and largest value ``min`` and ``max``, and how its table
            starts, ``init``: ``uniform`` on (-sqrt(3), sqrt(3)), ``zero``, ``near_zero``
            (standard deviation 1e-5), or None for N(0, 1).
    """

    def __init__(
        self,
        num_types: int,
        num_features: int,
        dtype: torch.dtype,
        graph_fields: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        table = torch.empty(num_types, num_features, dtype=dtype).normal_()
        self.weight = torch.nn.Parameter(table)
        # The graph model lets these fields through.
        self.input_fields = [str(entry["field"]) for entry in graph_fields]
        self.smallest = [int(entry["min"]) for entry in graph_fields]
        self.num_features = num_features + sum(entry["num_features"] for entry in graph_fields)
        if graph_fields:
            self.categorical = torch.nn.ParameterDict()
        for entry in graph_fields:
            rows = int(entry["max"]) - int(entry["min"]) + 1
            values = torch.empty(rows, entry["num_features"], dtype=dtype).normal_()
            init = entry.get("init")
            if init == "uniform":
                values.uniform_(-math.sqrt(3.0), math.sqrt(3.0))
            elif init == "zero":
                values.zero_()
            elif init == "near_zero":
                values.normal_(std=1e-5)
            self.categorical[entry["field"]] = torch.nn.Parameter(values)

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with attributes and first features.

        Raises:
            KeyError: a categorical field is missing.
        """
        rows = [self.weight.index_select(0, data[ATOM_TYPE_KEY])]
        for field, smallest in zip(self.input_fields, self.smallest, strict=True):
            if field not in data:
                raise KeyError(
                    f"the model needs the graph field '{field}', the data has {sorted(data)}"
                )
            row = self.categorical[field].index_select(0, data[field].reshape(-1) - smallest)
            if BATCH_KEY in data:
                rows.append(row.index_select(0, data[BATCH_KEY]))
            else:
                rows.append(row.expand(rows[0].shape[0], -1))
        data[NODE_ATTRS_KEY] = torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]
        data[NODE_FEATURES_KEY] = data[NODE_ATTRS_KEY]
        return data
