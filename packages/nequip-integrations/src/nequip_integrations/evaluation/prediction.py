"""A model of any kind that predicts several structures in one call, where it can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from nequip_core.compiled import CompiledModel
from nequip_core.errors import ModelError
from nequip_core.fields import (
    BATCH_KEY,
    CELL_KEY,
    FORCE_KEY,
    NUM_NODES_KEY,
    PER_ATOM_ENERGY_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_core.frames import Frame, batched_from_list, num_nodes
from nequip_integrations.ase_batches import NequIPBatchEvaluator
from nequip_integrations.ase_structures import ase_results, input_frame

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["BatchedModel", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one structure, in eV and Angstrom."""

    fields: dict[str, np.ndarray]
    """``total_energy`` (1,), ``forces`` (N, 3), where the model has it ``atomic_energy`` (N,),
    where the cell has a volume ``stress`` (3, 3)."""


class BatchedModel(NequIPBatchEvaluator):
    """A model to evaluate: one that takes a single frame gets one at a time.

    Args:
        source: see `nequip_integrations.ase_batches.NequIPBatchEvaluator`.
        **arguments: of it.

    Raises:
        NequIPError: see `nequip_core.runtime.open_model`.
    """

    def __init__(self, source: str, **arguments: Any) -> None:
        super().__init__(source, **arguments)
        self.source = source
        model: Any = self.model
        self.model_dtype = str(model.metadata["model_dtype"])
        self.takes_batches = not isinstance(model, CompiledModel) or BATCH_KEY in model.inputs

    def prepare(self, atoms: Atoms) -> Frame:
        """Return the model's input for a structure.

        Raises:
            DataError: positions or cell are not finite, or do not fit together.
            UnknownSpeciesError: a species is not known to the model.
        """
        return self.model_input(input_frame(self, atoms))

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        """Return a prediction for each frame.

        Where memory does not suffice for all of them at once, they are halved.

        Raises:
            DataError: the model returned NaN.
            ModelError: memory does not suffice for one frame.
        """
        if len(frames) > 1 and not self.takes_batches:
            return [self.predict([frame])[0] for frame in frames]
        batch = dict(batched_from_list(frames))
        if not self.takes_batches:
            del batch[BATCH_KEY], batch[NUM_NODES_KEY]
        try:
            return list(self._split(self.call_model(batch), frames))
        except ModelError:
            if len(frames) == 1:
                raise
        half = len(frames) // 2
        return self.predict(frames[:half]) + self.predict(frames[half:])

    def _split(self, out: Frame, frames: Sequence[Frame]) -> Iterator[Prediction]:
        start = 0
        for index, frame in enumerate(frames):
            stop = start + num_nodes(frame)
            one = {TOTAL_ENERGY_KEY: out[TOTAL_ENERGY_KEY].reshape(-1)[index : index + 1]}
            one |= {
                key: out[key][start:stop] for key in (PER_ATOM_ENERGY_KEY, FORCE_KEY) if key in out
            }
            if STRESS_KEY in out:
                one[STRESS_KEY] = out[STRESS_KEY].reshape(-1, 3, 3)[index]
            # No volume: a cell vector is missing.
            has_volume = bool(frame[CELL_KEY].det().abs().max() > 0.0)
            results = ase_results(self, one, has_volume)
            fields = {TOTAL_ENERGY_KEY: np.array([results["energy"]])}
            for key, name in ((PER_ATOM_ENERGY_KEY, "energies"), (FORCE_KEY, "forces")):
                if name in results:
                    fields[key] = results[name]
            if "stress" in results:
                fields[STRESS_KEY] = voigt_6_to_full_3x3_stress(results["stress"])
            yield Prediction(fields)
            start = stop
