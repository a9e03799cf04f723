"""The outermost module of every model: what goes in, what it is, what came out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch

from nequip_core.fields import (
    ATOM_TYPE_KEY,
    BATCH_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    EDGE_TRANSPOSE_PERM_KEY,
    EDGE_VECTORS_KEY,
    LMP_MLIAP_DATA_KEY,
    NUM_LOCAL_GHOST_NODES_KEY,
    NUM_NODES_KEY,
    POSITIONS_KEY,
)

__all__ = [
    "MODEL_DTYPE_KEY",
    "NUM_TYPES_KEY",
    "PER_EDGE_TYPE_CUTOFF_KEY",
    "R_MAX_KEY",
    "TYPE_NAMES_KEY",
    "GraphModel",
]

# Keys of `GraphModel.metadata`, which every compiled file carries.
R_MAX_KEY = "r_max"
PER_EDGE_TYPE_CUTOFF_KEY = "per_edge_type_cutoff"
TYPE_NAMES_KEY = "type_names"
NUM_TYPES_KEY = "num_types"
MODEL_DTYPE_KEY = "model_dtype"
_CUSTOM_LIBRARIES_KEY = "nequip_custom_ops_libs"

_FLOAT_FIELDS = (POSITIONS_KEY, CELL_KEY, EDGE_CELL_SHIFT_KEY, EDGE_VECTORS_KEY)
_INPUT_FIELDS = (
    POSITIONS_KEY,
    EDGE_INDEX_KEY,
    EDGE_TRANSPOSE_PERM_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_VECTORS_KEY,
    CELL_KEY,
    BATCH_KEY,
    NUM_NODES_KEY,
    ATOM_TYPE_KEY,
    LMP_MLIAP_DATA_KEY,
    NUM_LOCAL_GHOST_NODES_KEY,
)


class GraphModel(torch.nn.Module):
    """A model of atoms as a graph: ``dict`` in, ``dict`` out.

    Inputs: ``pos`` (N, 3), ``atom_types`` (N,), ``edge_index`` (2, E); with a cell ``cell``
    (F, 3, 3) and ``edge_cell_shift`` (E, 3); for several frames ``batch`` (N,) and ``num_atoms``
    (F,). ``edge_vectors`` (E, 3), length, may stand in place of ``pos``. Floats are taken as
    float64 whatever the dtype of the weights. Other fields, labels for instance, are neither read
    nor returned, except those that a submodule asks for: the names in its attribute
    ``input_fields``, or the keys of the outermost module's ``irreps_in``.

    Args:
        model: module that computes; reads and adds fields.
        model_config: what the model states of itself: ``type_names`` (the T names in order),
            ``model_dtype`` (``"float32"`` or ``"float64"``, of the weights), ``r_max`` (cutoff
            radius, length) and, where set, ``per_edge_type_cutoff`` (text of the T x T table).
        model_input_fields: further fields to let through to `model`.
    """

    # Versioned marks instead of isinstance: a packaged model's class is not the installed one.
    is_graph_model = True
    is_compile_graph_model = False
    graph_model_version = 1
    _is_graph_module_mixin = True

    # JSON text: one string pickles to the same bytes whatever objects it was made from.
    _description: str | None = None

    def __init__(
        self,
        model: torch.nn.Module,
        model_config: dict[str, Any],
        model_input_fields: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.type_names = list(model_config[TYPE_NAMES_KEY])
        self.model_dtype = str(model_config[MODEL_DTYPE_KEY])
        self.r_max = float(model_config[R_MAX_KEY])
        self.per_edge_type_cutoff: str | None = model_config.get(PER_EDGE_TYPE_CUTOFF_KEY)
        wanted = [*model_input_fields, *(getattr(model, "irreps_in", None) or {})]
        for module in model.modules():
            wanted += getattr(module, "input_fields", ())
        self.model_input_fields = list(dict.fromkeys((*_INPUT_FIELDS, *wanted)))

    @property
    def description(self) -> dict[str, Any] | None:
        """How to build the model again, as plain data: see `nequip_model.architecture`.

        Each reading returns a new copy; to change it, assign the changed copy.
        """
        return None if self._description is None else json.loads(self._description)

    @description.setter
    def description(self, description: dict[str, Any] | None) -> None:
        self._description = None if description is None else json.dumps(description)

    @property
    def irreps_in(self) -> dict[str, Any]:
        """Irreps of the fields that go in, where the model states them."""
        return getattr(self.model, "irreps_in", None) or {}

    @property
    def irreps_out(self) -> dict[str, Any]:
        """Irreps of the fields that come out, where the model states them."""
        return getattr(self.model, "irreps_out", None) or {}

    @property
    def metadata(self) -> dict[str, str]:
        """What a compiled file states about the model; every value is text.

        A submodule adds to it with a method ``_get_metadata_contributions() -> dict``, and names
        the libraries of its custom operators in ``_nequip_custom_ops_libs``.

        Raises:
            ValueError: two submodules contribute the same key.
        """
        text = {
            MODEL_DTYPE_KEY: self.model_dtype,
            TYPE_NAMES_KEY: " ".join(self.type_names),
            NUM_TYPES_KEY: str(len(self.type_names)),
            R_MAX_KEY: str(self.r_max),
        }
        if self.per_edge_type_cutoff is not None:
            text[PER_EDGE_TYPE_CUTOFF_KEY] = self.per_edge_type_cutoff
        contributed: dict[str, str] = {}
        libraries: set[str] = set()
        for name, module in self.model.named_modules():
            libraries.update(getattr(module, "_nequip_custom_ops_libs", ()))
            contribute = getattr(module, "_get_metadata_contributions", None)
            if contribute is None:
                continue
            for key, value in contribute().items():
                if key in contributed:
                    raise ValueError(f"'{name}' states '{key}' of the metadata a second time")
                contributed[key] = str(value)
        text.update(contributed)
        if PER_EDGE_TYPE_CUTOFF_KEY in contributed:
            cutoffs = contributed[PER_EDGE_TYPE_CUTOFF_KEY].split()
            text[R_MAX_KEY] = str(max(float(cutoff) for cutoff in cutoffs))
        if libraries:
            text[_CUSTOM_LIBRARIES_KEY] = " ".join(sorted(libraries))
        return text

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the inputs and everything computed from them.

        Raises:
            KeyError: a required field is missing.
        """
        place = EDGE_VECTORS_KEY if EDGE_VECTORS_KEY in data else POSITIONS_KEY
        for key in (place, ATOM_TYPE_KEY, EDGE_INDEX_KEY):
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
