"""Many small frames through a compiled model, in one call where its target takes batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from nequip_core.compile_targets import CompileTarget
from nequip_core.errors import CompileError
from nequip_core.fields import (
    FORCE_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
    VIRIAL_KEY,
)
from nequip_core.frames import Frame, batched_from_list

__all__ = ["Outputs", "evaluated"]

# Bounds the memory of a call.
_FRAMES_A_CALL = 64


@dataclass(frozen=True)
class Outputs:
    """Outputs for M frames of N atoms each, float64 on the CPU; None: the target has them not."""

    energy: torch.Tensor | None
    """(M,): the total energy, or the sum of those of the atoms."""
    forces: torch.Tensor | None
    """(M, N, 3)."""
    virial: torch.Tensor | None
    """(M, 3, 3)."""
    stress: torch.Tensor | None
    """(M, 3, 3)."""


def evaluated(
    model: Callable[[Frame], Frame],
    target: CompileTarget,
    frames: Sequence[Frame],
    device: torch.device,
) -> Outputs | None:
    """Return the outputs of `model`, or None where frames cannot be prepared for the target.

    Args:
        model: takes and returns the fields of `target`, on `device`.
        target: its `prepare` must keep the atoms of a frame as they are.
        frames: of the same number of atoms, with neighbor lists, on the CPU.
        device: where the model runs.

    Raises:
        CompileError: an output is missing, or of another size.
    """
    count, atoms = len(frames), frames[0][POSITIONS_KEY].shape[0]
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in target.outputs}
    for prepared in _prepared(target, frames):
        missing = [name for name in target.inputs if name not in prepared]
        if missing or prepared[POSITIONS_KEY].shape[0] % atoms:
            return None
        found = model({name: value.to(device) for name, value in prepared.items()})
        for name in target.outputs:
            if name not in found:
                raise CompileError(f"the compiled model does not return '{name}'")
            parts[name].append(found[name].detach().double().cpu())
    outputs = {name: torch.cat([one.reshape(-1) for one in part]) for name, part in parts.items()}

    def shaped(name: str, *shape: int) -> torch.Tensor | None:
        if name not in outputs:
            return None
        try:
            return outputs[name].reshape(count, *shape)
        except RuntimeError as error:
            raise CompileError(
                f"'{name}' of the compiled model has {outputs[name].numel()} numbers for {count} "
                f"frames of {atoms} atoms, expected shape {shape} for each"
            ) from error

    energy = shaped(TOTAL_ENERGY_KEY)
    if energy is None:
        by_atom = shaped(PER_ATOM_ENERGY_KEY, atoms)
        energy = None if by_atom is None else by_atom.sum(1)
    return Outputs(
        energy=energy,
        forces=shaped(FORCE_KEY, atoms, 3),
        virial=shaped(VIRIAL_KEY, 3, 3),
        stress=shaped(STRESS_KEY, 3, 3),
    )


def _prepared(target: CompileTarget, frames: Sequence[Frame]) -> Iterator[Frame]:
    """Yield inputs of one call each."""
    if not target.dynamic_frames:
        yield from (target.prepare(frame) for frame in frames)
        return
    for first in range(0, len(frames), _FRAMES_A_CALL):
        yield batched_from_list(list(frames[first : first + _FRAMES_A_CALL]))
