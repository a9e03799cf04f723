"""Frames and batches: plain ``dict[str, torch.Tensor]``, and what makes and splits them.

A frame is one structure, a batch several of them concatenated. Floating-point fields are float64
whatever the dtype of the model; geometry is always computed in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nequip_core.errors import DataError
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    BATCH_KEY,
    CELL_KEY,
    DATASET_KEY,
    EDGE_INDEX_KEY,
    EDGE_TRANSPOSE_PERM_KEY,
    EDGE_TYPE_KEY,
    FORCE_KEY,
    FREE_ENERGY_KEY,
    NUM_NODES_KEY,
    PBC_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    TOTAL_CHARGE_KEY,
    TOTAL_ENERGY_KEY,
    TOTAL_SPIN_KEY,
    get_field_type,
    is_cartesian_tensor,
    is_long,
)

__all__ = [
    "Frame",
    "batched_from_list",
    "detach_",
    "frame_from_batched",
    "from_dict",
    "is_batched",
    "num_edges",
    "num_frames",
    "num_nodes",
    "to_",
    "unbatched",
    "with_batch_",
    "without_nodes",
]

Frame = dict[str, torch.Tensor]

# Integer fields that stay rank 1: one number a row, no trailing axis.
_RANK_ONE = frozenset({NUM_NODES_KEY, BATCH_KEY, "atomic_numbers", ATOM_TYPE_KEY})
# Numbers in a row where there is no choice; a magnetic moment may be a number or a vector.
_NUMBERS = {
    POSITIONS_KEY: 3,
    FORCE_KEY: 3,
    PER_ATOM_ENERGY_KEY: 1,
    TOTAL_ENERGY_KEY: 1,
    FREE_ENERGY_KEY: 1,
    TOTAL_CHARGE_KEY: 1,
    TOTAL_SPIN_KEY: 1,
    DATASET_KEY: 1,
}


def from_dict(data: Mapping[str, Any]) -> Frame:
    """Return a frame with tensors of the right dtype and shape.

    Arrays, lists and numbers become float64; tensors keep their dtype. Integer fields become int64,
    from whole numbers of any type.

    Args:
        data: fields by name; needs ``pos``, (N, 3), length.

    Raises:
        DataError: ``pos`` is missing or not finite, ``cell`` comes without ``pbc``, a shape does
            not fit, or an integer field holds other numbers.
        TypeError: a value cannot become a tensor.
    """
    if POSITIONS_KEY not in data:
        raise DataError(f"a frame needs '{POSITIONS_KEY}', found only {sorted(data)}")
    if CELL_KEY in data and data[CELL_KEY] is not None and data.get(PBC_KEY) is None:
        raise DataError(f"a frame with '{CELL_KEY}' needs '{PBC_KEY}' as well")
    frame = {key: _as_tensor(key, value) for key, value in data.items() if value is not None}
    if PBC_KEY not in frame:
        frame[PBC_KEY] = torch.zeros(3, dtype=torch.bool)
    if frame[PBC_KEY].numel() == 1:
        frame[PBC_KEY] = frame[PBC_KEY].reshape(1).expand(3)
    frame[PBC_KEY] = _rows_of(PBC_KEY, frame[PBC_KEY], 3)
    if CELL_KEY in frame:
        frame[CELL_KEY] = _rows_of(CELL_KEY, frame[CELL_KEY], 3, 3)
    for key, value in frame.items():
        frame[key] = _with_row_axis(key, value)
    _check_rows(frame)
    _check_positions(frame[POSITIONS_KEY])
    return {key: value.contiguous() for key, value in frame.items()}


def _as_tensor(key: str, value: Any) -> torch.Tensor:
    if key == PBC_KEY:
        return torch.as_tensor(value, dtype=torch.bool)
    if isinstance(value, torch.Tensor):
        return _whole(key, value) if is_long(key) else value
    try:
        array = np.asarray(value)
    except Exception as error:
        raise TypeError(f"'{key}' cannot become a tensor: {error}") from error
    if is_long(key):
        if array.dtype.kind not in "iuf":
            raise DataError(f"'{key}' must hold integers, got {array.dtype}")
        number = np.float64 if array.dtype.kind == "f" else np.int64
        return _whole(key, torch.tensor(array.astype(number)))
    if array.dtype.kind == "f":
        return torch.tensor(array, dtype=torch.float64)
    if array.dtype.kind in "iu" and isinstance(value, int | float | list | tuple):
        return torch.tensor(array, dtype=torch.float64)
    if array.dtype.kind in "iub":
        return torch.tensor(array)
    raise TypeError(f"'{key}' has the unsupported type {type(value).__name__} ({array.dtype})")


def _whole(key: str, value: torch.Tensor) -> torch.Tensor:
    if value.is_floating_point():
        wrong = value[value != value.round()]  # of NaN as well
        if len(wrong):
            raise DataError(f"'{key}' must hold integers, got {wrong.reshape(-1)[0].item()}")
    return value.long()


def _with_row_axis(key: str, value: torch.Tensor) -> torch.Tensor:
    kind = get_field_type(key, error_on_unregistered=False)
    if kind is None:
        return value
    if is_cartesian_tensor(key):
        return _rows_of(key, value, 3, 3)
    if value.dim() == 0:
        value = value.reshape(1)
    if value.dim() == 1 and key not in _RANK_ONE:
        return value.unsqueeze(-1)
    return value


def _rows_of(key: str, value: torch.Tensor, *row: int) -> torch.Tensor:
    try:
        return value.reshape(-1, *row)
    except RuntimeError as error:
        raise DataError(
            f"'{key}' must have rows of shape {row}, got shape {tuple(value.shape)}"
        ) from error


def _check_rows(frame: Frame) -> None:
    rows = {"graph": num_frames(frame), "node": num_nodes(frame), "edge": num_edges(frame)}
    for key, value in frame.items():
        kind = get_field_type(key, error_on_unregistered=False)
        if kind is None or (kind == "edge" and EDGE_INDEX_KEY not in frame):
            continue
        if value.shape[0] != rows[kind]:
            raise DataError(
                f"{kind} field '{key}' has shape {tuple(value.shape)}, expected {rows[kind]} rows"
            )
    for key, numbers in _NUMBERS.items():
        if key in frame and frame[key].shape[1:] != (numbers,):
            kind = get_field_type(key)
            letter, row = ("N", "atom") if kind == "node" else ("F", "frame")
            raise DataError(
                f"'{key}' must have shape ({letter}, {numbers}), got {tuple(frame[key].shape)}: "
                f"{numbers} number{'s' * (numbers > 1)} for each {row}"
            )


def _check_positions(positions: torch.Tensor) -> None:
    wrong = ~positions.isfinite().all(dim=1)
    if bool(wrong.any()):
        atom = int(wrong.nonzero()[0])
        raise DataError(
            f"the position of atom {atom} is not finite: {positions[atom].tolist()} "
            f"({int(wrong.sum())} of {len(positions)} atoms)"
        )


def num_frames(data: Frame) -> int:
    """Return the number of frames; 1 for a frame without batch fields."""
    return data[NUM_NODES_KEY].shape[0] if NUM_NODES_KEY in data else 1


def num_nodes(data: Frame) -> int:
    """Return the number of atoms."""
    # No int(): that would make a constant of a size that is being traced.
    return data[POSITIONS_KEY if POSITIONS_KEY in data else ATOM_TYPE_KEY].shape[0]


def num_edges(data: Frame) -> int:
    """Return the number of edges; 0 without a neighbor list."""
    return data[EDGE_INDEX_KEY].shape[1] if EDGE_INDEX_KEY in data else 0


def is_batched(data: Frame) -> bool:
    """Return whether the batch fields are present."""
    return BATCH_KEY in data


def with_batch_(data: Frame) -> Frame:
    """Add the batch fields of a single frame in place and return it; no-op when present."""
    if BATCH_KEY not in data:
        positions = data[POSITIONS_KEY]
        count = positions.shape[0]
        data[BATCH_KEY] = torch.zeros(count, dtype=torch.int64, device=positions.device)
        data[NUM_NODES_KEY] = torch.full((1,), count, dtype=torch.int64, device=positions.device)
    return data


def to_(data: Frame, device: torch.device | str) -> Frame:
    """Move every field to `device` in place and return the same dictionary."""
    for key, value in data.items():
        data[key] = value.to(device=device)
    return data


def detach_(data: Frame) -> Frame:
    """Detach every field from autograd in place and return the same dictionary."""
    for key, value in data.items():
        data[key] = value.detach()
    return data


def batched_from_list(frames: Sequence[Frame]) -> Frame:
    """Return one batch of several frames or batches.

    Args:
        frames: at least one frame; all must have the same fields.

    Raises:
        RuntimeError: the list is empty, or the fields differ.
        KeyError: a field is not registered, so its kind is unknown.
    """
    if len(frames) == 0:
        raise RuntimeError("cannot make a batch of an empty list of frames")
    frames = [with_batch_(dict(frame)) for frame in frames]
    if len(frames) == 1:
        return frames[0]
    keys = set(frames[0])
    for index, frame in enumerate(frames):
        if set(frame) != keys:
            missing, extra = sorted(keys - set(frame)), sorted(set(frame) - keys)
            raise RuntimeError(
                f"frames of a batch must have the same fields: against frame 0, frame {index} "
                f"lacks {missing} and adds {extra}"
            )
    edge_offsets = np.cumsum([0] + [num_edges(frame) for frame in frames[:-1]]).tolist()
    node_offsets = np.cumsum([0] + [num_nodes(frame) for frame in frames[:-1]]).tolist()
    frame_offsets = np.cumsum([0] + [num_frames(frame) for frame in frames[:-1]]).tolist()
    batch: Frame = {}
    for key in frames[0]:
        values = [frame[key] for frame in frames]
        if EDGE_INDEX_KEY in key:
            shifted = [v + o for v, o in zip(values, node_offsets, strict=True)]
            batch[key] = torch.cat(shifted, dim=1)
        elif key == BATCH_KEY:
            batch[key] = torch.cat([v + o for v, o in zip(values, frame_offsets, strict=True)])
        elif key == EDGE_TRANSPOSE_PERM_KEY:
            batch[key] = torch.cat([v + o for v, o in zip(values, edge_offsets, strict=True)])
        elif key == EDGE_TYPE_KEY:
            batch[key] = torch.cat(values, dim=1)
        else:
            get_field_type(key)
            batch[key] = torch.cat(values, dim=0)
    return batch


def frame_from_batched(data: Frame, index: int) -> Frame:
    """Return frame `index` of a batch, without the other frames' rows.

    A frame without edges keeps its edge fields, with no rows, so that it batches again.

    Raises:
        IndexError: the batch has no such frame.
        KeyError: a field is not registered.
    """
    frames = num_frames(data)
    if not 0 <= index < frames:
        raise IndexError(f"frame {index} of a batch of {frames} frames")
    if not is_batched(data) or frames == 1:
        return data
    nodes = data[BATCH_KEY] == index
    edges = None
    if EDGE_INDEX_KEY in data:
        edges = data[BATCH_KEY][data[EDGE_INDEX_KEY][0]] == index
    return _selected(data, torch.arange(frames, device=nodes.device) == index, nodes, edges)


def unbatched(data: Frame) -> list[Frame]:
    """Return the frames of a batch, in order; `batched_from_list` makes the same batch of them.

    Raises:
        KeyError: a field is not registered.
    """
    return [frame_from_batched(data, index) for index in range(num_frames(data))]


def without_nodes(data: Frame, which_nodes: torch.Tensor) -> Frame:
    """Return a copy of a frame or batch without some of its atoms, and without their edges.

    Fields of whole frames stay as they are, ``num_atoms`` is counted anew.

    Args:
        data: a frame or batch; is not changed.
        which_nodes: the atoms to leave out: their indices, or a mask (N,) of bool.

    Raises:
        KeyError: a field is not registered.
        IndexError: there is no such atom, or a mask has another length.
    """
    which_nodes = torch.as_tensor(which_nodes)
    keep = torch.ones(num_nodes(data), dtype=torch.bool, device=which_nodes.device)
    keep[which_nodes] = False
    edges = None
    if EDGE_INDEX_KEY in data:
        centre, neighbour = data[EDGE_INDEX_KEY]
        edges = keep[centre] & keep[neighbour]
    frames = torch.ones(num_frames(data), dtype=torch.bool, device=keep.device)
    frame = _selected(data, frames, keep, edges)
    if BATCH_KEY in data:
        frame[NUM_NODES_KEY] = torch.bincount(data[BATCH_KEY][keep], minlength=len(frames))
    return frame


def _selected(
    data: Frame, frames: torch.Tensor, nodes: torch.Tensor, edges: torch.Tensor | None
) -> Frame:
    """Return the rows of `data` where the masks of frames, atoms and edges are true."""
    new_frame, new_node = frames.cumsum(0) - 1, nodes.cumsum(0) - 1
    rows = {"graph": frames, "node": nodes, "edge": edges}
    selected: Frame = {}
    for key, value in data.items():
        if EDGE_INDEX_KEY in key:
            selected[key] = new_node[value[:, edges]]
        elif key == BATCH_KEY:
            selected[key] = new_frame[value[nodes]]
        elif key == EDGE_TYPE_KEY:
            selected[key] = value[:, edges]
        elif key == EDGE_TRANSPOSE_PERM_KEY:
            assigned = torch.cumsum(edges, 0) - 1  # type: ignore[arg-type]
            selected[key] = assigned[value[edges[value]]]  # type: ignore[index]
        else:
            mask = rows[get_field_type(key) or ""]
            if mask is None:
                raise KeyError(f"edge field '{key}' without '{EDGE_INDEX_KEY}'")
            selected[key] = value[mask]
    return selected
