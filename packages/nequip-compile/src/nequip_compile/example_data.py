"""The frame of ``--data-path``: example data that a user gives for tracing and comparing."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from nequip_core.errors import DataError, FileFormatError
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    BATCH_KEY,
    EDGE_INDEX_KEY,
    NUM_NODES_KEY,
    POSITIONS_KEY,
)
from nequip_core.files import require_file
from nequip_core.frames import Frame, from_dict
from nequip_core.neighbors import compute_neighborlist_

__all__ = ["load_example"]


def load_example(path: str | Path, type_names: list[str], r_max: float) -> Frame:
    """Return the frame of a file with a neighbor list.

    Args:
        path: a TorchScript module whose state dict holds the fields by name.
        type_names: of the model; ``atom_types`` count in them.
        r_max: cutoff radius of the neighbor list that is made where the file has none.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: it is no TorchScript module.
        DataError: a field is missing or does not fit the model.
    """
    found = require_file(path, "data file")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            fields = dict(torch.jit.load(str(found), map_location="cpu").state_dict())
    except RuntimeError as error:
        first = (str(error).strip().splitlines() or ["unreadable"])[0]
        raise FileFormatError(
            f"'{found}' is no TorchScript module that holds example data: {first}"
        ) from error
    missing = [name for name in (POSITIONS_KEY, ATOM_TYPE_KEY) if name not in fields]
    if missing:
        raise DataError(f"the data file '{found}' lacks {missing}, it has {sorted(fields)}")
    frame = from_dict(fields)
    types = frame[ATOM_TYPE_KEY]
    if types.numel() and not 0 <= int(types.min()) <= int(types.max()) < len(type_names):
        raise DataError(
            f"atom_types in '{found}' must be from 0 to {len(type_names) - 1} ({type_names}), got "
            f"{int(types.min())} to {int(types.max())}"
        )
    if NUM_NODES_KEY in frame and frame[NUM_NODES_KEY].shape[0] != 1:
        raise DataError(f"'{found}' holds {frame[NUM_NODES_KEY].shape[0]} frames, one is needed")
    frame = {name: value for name, value in frame.items() if name not in (BATCH_KEY, NUM_NODES_KEY)}
    return frame if EDGE_INDEX_KEY in frame else compute_neighborlist_(frame, r_max)
