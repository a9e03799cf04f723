"""Embedding of vectors: of a frame, an external field say, or of its atoms, a magnetic moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from e3nn.o3._irreps import Irreps
from e3nn.o3._spherical_harmonics import SphericalHarmonics

from nequip_core.fields import BATCH_KEY, NODE_ATTRS_KEY, NODE_FEATURES_KEY, get_field_type
from nequip_model.graph_modules.mixin import GraphModuleMixin

__all__ = ["AppendVectorFieldEmbed"]

Data = dict[str, torch.Tensor]


class AppendVectorFieldEmbed(GraphModuleMixin, torch.nn.Module):
    """Append the solid harmonics of vector fields to ``node_features``, one copy of each degree.

    The harmonics of degree l of a vector v are those of its direction times |v|^l, in e3nn's
    component normalisation: 1, sqrt(3) v, ... The values are those of the field in its own unit;
    who wants numbers near one scales the field.

    Args:
        vector_fields: registered node or graph field, (N, 3) or (F, 3) -> parity of its vectors:
            -1 for polar ones (1o), as an electric field, 1 for axial ones (1e), as a magnetic.
        l_max: highest degree.
        append_to_node_attrs: append to ``node_attrs`` as well.
        irreps_in: irreps of the input, with those of ``node_features``.

    Raises:
        ValueError: there is no field, one is neither of atoms nor of frames, a parity is not 1 or
            -1, or ``node_features`` or ``node_attrs`` are missing in `irreps_in`.
    """

    def __init__(
        self,
        vector_fields: Mapping[str, int],
        l_max: int,
        append_to_node_attrs: bool = True,
        irreps_in: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not vector_fields:
            raise ValueError("vector_fields is empty; name a field and its parity, {'field': -1}")
        if l_max < 0:
            raise ValueError(f"l_max must be at least 0, got {l_max}")
        self.vector_fields = list(vector_fields)
        # Polynomials of the components: smooth at zero, where there is no direction.
        self.harmonics = SphericalHarmonics(
            list(range(l_max + 1)), normalize=False, normalization="component"
        )
        self.append_to_node_attrs = append_to_node_attrs
        self.model_dtype = torch.get_default_dtype()
        self.field_kinds: dict[str, str] = {}
        appended = Irreps("")
        vectors = {}
        for field, parity in vector_fields.items():
            if parity not in (1, -1):
                raise ValueError(
                    f"the parity of '{field}' must be -1 (polar) or 1 (axial), got {parity!r}"
                )
            kind = get_field_type(field)
            if kind not in ("node", "graph"):
                raise ValueError(f"'{field}' must be a node or a graph field, it is '{kind}'")
            self.field_kinds[field] = str(kind)
            vectors[field] = Irreps([(1, (1, parity))])
            appended += Irreps([(1, (l, parity**l)) for l in range(l_max + 1)])
        fields = [NODE_FEATURES_KEY, *([NODE_ATTRS_KEY] if append_to_node_attrs else [])]
        self._init_irreps(
            irreps_in={**vectors, **(irreps_in or {})},
            my_irreps_in=vectors,
            required_irreps_in=fields,
        )
        for field in fields:
            given = self.irreps_in[field]
            if given is None:
                raise ValueError(f"AppendVectorFieldEmbed needs irreps of '{field}', got None")
            self.irreps_out[field] = given + appended

    def forward(self, data: Data) -> Data:
        """Return the data with longer ``node_features`` and, if asked for, ``node_attrs``."""
        atoms = data[NODE_FEATURES_KEY].shape[0]
        parts = []
        for field in self.vector_fields:
            harmonics = self.harmonics(data[field].reshape(-1, 3))
            if self.field_kinds[field] == "graph":
                if BATCH_KEY in data:
                    harmonics = harmonics.index_select(0, data[BATCH_KEY])
                else:
                    harmonics = harmonics.expand(atoms, -1)
            parts.append(harmonics.to(self.model_dtype))
        data[NODE_FEATURES_KEY] = torch.cat([data[NODE_FEATURES_KEY], *parts], dim=-1)
        if self.append_to_node_attrs:
            data[NODE_ATTRS_KEY] = torch.cat([data[NODE_ATTRS_KEY], *parts], dim=-1)
        return data
