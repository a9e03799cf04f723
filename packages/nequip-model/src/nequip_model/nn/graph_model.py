"""The outermost module of every model: what goes in, what it is, what came out."""

from __future__ import annotations

import torch

from nequip_core.fields import (
    ATOM_TYPE_KEY,
    BATCH_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    NUM_NODES_KEY,
    POSITIONS_KEY,
)

__all__ = ["GraphModel"]

_FLOAT_FIELDS = (POSITIONS_KEY, CELL_KEY, EDGE_CELL_SHIFT_KEY)
_INPUT_FIELDS = (
    *_FLOAT_FIELDS,
    EDGE_INDEX_KEY,
    ATOM_TYPE_KEY,
    BATCH_KEY,
    NUM_NODES_KEY,
)


class GraphModel(torch.nn.Module):
    """A model of atoms as a graph: ``dict`` in, ``dict`` out.

    Inputs: ``pos`` (N, 3), ``atom_types`` (N,), ``edge_index`` (2, E); with a cell ``cell``
    (F, 3, 3) and ``edge_cell_shift`` (E, 3); for several frames ``batch`` (N,) and ``num_atoms``
    (F,). Floats are taken as float64 whatever the dtype of the weights. Other fields, labels for
    instance, are neither read nor returned.

    Args:
        model: module that computes; reads and adds fields.
        type_names: the T type names in order.
        model_dtype: ``"float32"`` or ``"float64"``, of the weights.
        r_max: cutoff radius, length.
        per_edge_type_cutoff: text form of the cutoff table, or None.
        extra_input_fields: further fields that `model` reads.
    """

    # Versioned marks instead of isinstance: a packaged model's class is not the installed one.
    is_graph_model = True
    is_compile_graph_model = False
    graph_model_version = 1

    def __init__(
        self,
        model: torch.nn.Module,
        type_names: list[str],
        model_dtype: str,
        r_max: float,
        per_edge_type_cutoff: str | None = None,
        extra_input_fields: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.type_names = list(type_names)
        self.model_dtype = model_dtype
        self.r_max = r_max
        self.per_edge_type_cutoff = per_edge_type_cutoff
        self.model_input_fields = [*_INPUT_FIELDS, *extra_input_fields]

    @property
    def metadata(self) -> dict[str, str]:
        """What a compiled file states about the model; every value is text."""
        text = {
            "model_dtype": self.model_dtype,
            "type_names": " ".join(self.type_names),
            "num_types": str(len(self.type_names)),
            "r_max": str(self.r_max),
        }
        if self.per_edge_type_cutoff is not None:
            text["per_edge_type_cutoff"] = self.per_edge_type_cutoff
        return text

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the inputs and everything computed from them.

        Raises:
            KeyError: a required field is missing.
        """
        for key in (POSITIONS_KEY, ATOM_TYPE_KEY, EDGE_INDEX_KEY):
            if key not in data:
                raise KeyError(f"the model needs '{key}', the data has {sorted(data)}")
        inputs = {key: data[key] for key in self.model_input_fields if key in data}
        for key in _FLOAT_FIELDS:
            if key in inputs:
                inputs[key] = inputs[key].to(torch.float64)
        inputs[ATOM_TYPE_KEY] = inputs[ATOM_TYPE_KEY].reshape(-1)
        if CELL_KEY in inputs:
            inputs[CELL_KEY] = inputs[CELL_KEY].reshape(-1, 3, 3)
        return self.model(inputs)
