"""Compile targets: which fields a compiled model takes and returns, in which order.

An engine calls a compiled model by position, so the orders below are a contract. Units and signs
are those of `nequip_core.fields`. Axes: F frames, N atoms, E edges.

| field | shape, dtype | |
|---|---|---|
| `pos` | (N, 3) float64 | length |
| `edge_index` | (2, E) int64 | row 0 the centre, row 1 the neighbor |
| `atom_types` | (N,) int64 | index into the model's type names |
| `cell` | (F, 3, 3) float64 | rows are the cell vectors, length; zero where there is none |
| `edge_cell_shift` | (E, 3) float64 | whole cell vectors, integer-valued |
| `batch` | (N,) int64 | frame of each atom |
| `num_atoms` | (F,) int64 | atoms of each frame |

Further targets come from other distributions through the entry-point group
``nequip.compile_targets``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nequip_core.errors import ConfigError
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    BATCH_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    FORCE_KEY,
    NUM_NODES_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
    VIRIAL_KEY,
)
from nequip_core.frames import Frame, batched_from_list

__all__ = ["ASE", "BATCH", "PAIR_NEQUIP", "CompileTarget", "custom_target"]


@dataclass(frozen=True)
class CompileTarget:
    """What an engine hands to a compiled model, and what it wants back."""

    name: str
    """As given to ``nequip-compile --target``."""
    inputs: tuple[str, ...]
    """Input fields in positional order."""
    outputs: tuple[str, ...]
    """Output fields in positional order."""
    dynamic_frames: bool
    """Whether the number of frames may change from call to call; it is 1 otherwise."""
    prepare: Callable[[Frame], Frame]
    """From one frame with a neighbor list to example data with every input field."""


def _as_single_frame(frame: Frame) -> Frame:
    """Return the frame without its batch fields."""
    return {key: value for key, value in frame.items() if key not in (BATCH_KEY, NUM_NODES_KEY)}


def _as_batch_of_two(frame: Frame) -> Frame:
    """Return a batch that holds the frame twice: a batch of one would be compiled as constant."""
    return batched_from_list([_as_single_frame(frame)] * 2)


_FRAME_INPUTS = (POSITIONS_KEY, EDGE_INDEX_KEY, ATOM_TYPE_KEY, CELL_KEY, EDGE_CELL_SHIFT_KEY)
_ENERGY_FORCE_STRESS = (PER_ATOM_ENERGY_KEY, TOTAL_ENERGY_KEY, FORCE_KEY, STRESS_KEY)

ASE = CompileTarget(
    name="ase",
    inputs=_FRAME_INPUTS,
    outputs=_ENERGY_FORCE_STRESS,
    dynamic_frames=False,
    prepare=_as_single_frame,
)
"""One frame at a time: ASE, and engines that want total energy and stress."""

BATCH = CompileTarget(
    name="batch",
    inputs=(*_FRAME_INPUTS, BATCH_KEY, NUM_NODES_KEY),
    outputs=_ENERGY_FORCE_STRESS,
    dynamic_frames=True,
    prepare=_as_batch_of_two,
)
"""Any number of frames in one call: batched simulation and screening."""

PAIR_NEQUIP = CompileTarget(
    name="pair_nequip",
    inputs=_FRAME_INPUTS,
    outputs=(PER_ATOM_ENERGY_KEY, FORCE_KEY, VIRIAL_KEY),
    dynamic_frames=False,
    prepare=_as_single_frame,
)
"""The pair style ``nequip`` of LAMMPS; the virial is that of the whole cell."""


def custom_target(inputs: tuple[str, ...], outputs: tuple[str, ...]) -> CompileTarget:
    """Return a target with the given fields; frames are dynamic where ``batch`` is an input.

    Raises:
        ConfigError: a list is empty or names a field twice.
    """
    for what, names in (("input", inputs), ("output", outputs)):
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"{what} fields must be different names, at least one; got {names}")
    batched = BATCH_KEY in inputs or NUM_NODES_KEY in inputs
    return CompileTarget(
        name="custom",
        inputs=inputs,
        outputs=outputs,
        dynamic_frames=batched,
        prepare=_as_batch_of_two if batched else _as_single_frame,
    )
