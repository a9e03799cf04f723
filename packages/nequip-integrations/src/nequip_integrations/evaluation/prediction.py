"""A model of any kind that predicts several structures in one call, where it can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nequip_core.compile_targets import BATCH
from nequip_core.compiled import CompiledModel
from nequip_core.errors import DataError
from nequip_core.fields import (
    ATOMIC_NUMBERS_KEY,
    BATCH_KEY,
    CELL_KEY,
    FORCE_KEY,
    NUM_NODES_KEY,
    PBC_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_core.frames import Frame, batched_from_list, from_dict, num_nodes, to_
from nequip_core.runtime import open_model
from nequip_integrations.preparation import input_transforms

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["BatchedModel", "Prediction"]

# What allocators say, of the CPU and of GPUs.
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


@dataclass(frozen=True)
class Prediction:
    """What a model says of one structure, in eV and Angstrom."""

    fields: dict[str, np.ndarray]
    """``total_energy`` (1,); where the model has them ``forces`` (N, 3) and ``atomic_energy`` (N,),
    with a volume ``stress`` (3, 3)."""


class BatchedModel:
    """A model, opened to predict batches; one that takes a single frame gets one at a time.

    Args:
        source: see `nequip_core.runtime.open_model`.
        device: where to run.
        energy_units_to_eV: eV in one energy unit of the model.
        length_units_to_A: Angstrom in one length unit of the model.
        chemical_species_to_atom_type_map: see `nequip_integrations.preparation.species_map`.
        allow_tf32: multiply matrices in TF32 on GPUs.
        **settings: of `nequip_core.runtime.open_model`.

    Raises:
        NequIPError: see `nequip_core.runtime.open_model`.
    """

    def __init__(
        self,
        source: str,
        device: str = "cpu",
        *,
        energy_units_to_eV: float = 1.0,
        length_units_to_A: float = 1.0,
        chemical_species_to_atom_type_map: Any = None,
        allow_tf32: bool = False,
        **settings: Any,
    ) -> None:
        self.source = source
        opened = open_model(
            source, device, target=BATCH, outputs=(TOTAL_ENERGY_KEY,), tf32=allow_tf32, **settings
        )
        self.way = opened.way
        self.model_dtype = opened.model_dtype
        self.type_names = list(opened.type_names)
        self._model = opened.model
        self._device = opened.device
        self._energy, self._length = float(energy_units_to_eV), float(length_units_to_A)
        self._transforms = input_transforms(
            opened.type_names,
            opened.r_max,
            opened.per_edge_type_cutoff,
            chemical_species_to_atom_type_map,
        )
        self.takes_batches = not isinstance(opened.model, CompiledModel) or (
            BATCH_KEY in opened.model.inputs
        )

    def prepare(self, atoms: Atoms) -> Frame:
        """Return the model's input for a structure, on the CPU.

        Raises:
            DataError: positions or cell are not finite, or do not fit together.
            UnknownSpeciesError: a species is not known to the model.
        """
        data = from_dict(
            {
                POSITIONS_KEY: atoms.get_positions() / self._length,
                CELL_KEY: np.asarray(atoms.cell) / self._length,
                PBC_KEY: atoms.get_pbc(),
                ATOMIC_NUMBERS_KEY: atoms.get_atomic_numbers(),
            }
        )
        for transform in self._transforms:
            data = transform(data)
        return data

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        """Return a prediction for each frame.

        Where memory does not suffice for all of them at once, they are halved.

        Raises:
            DataError: the model returned NaN, or memory does not suffice for one frame.
        """
        if len(frames) > 1 and not self.takes_batches:
            return [self.predict([frame])[0] for frame in frames]
        try:
            batch = to_(dict(batched_from_list(frames)), self._device)
            if not self.takes_batches:
                del batch[BATCH_KEY], batch[NUM_NODES_KEY]
            out = {key: value.detach().cpu().numpy() for key, value in self._model(batch).items()}
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and not any(
                text in str(error) for text in _NO_MEMORY
            ):
                raise
            if len(frames) == 1:
                raise DataError(
                    f"memory does not suffice for a structure of {num_nodes(frames[0])} atoms with "
                    f"'{self.source}'"
                ) from error
        else:
            return list(self._split(out, frames))
        half = len(frames) // 2
        return self.predict(frames[:half]) + self.predict(frames[half:])

    def _split(self, out: dict[str, np.ndarray], frames: Sequence[Frame]) -> Iterator[Prediction]:
        units = {
            TOTAL_ENERGY_KEY: self._energy,
            PER_ATOM_ENERGY_KEY: self._energy,
            FORCE_KEY: self._energy / self._length,
            STRESS_KEY: self._energy / self._length**3,
        }
        start = 0
        for index, frame in enumerate(frames):
            stop = start + num_nodes(frame)
            fields = {TOTAL_ENERGY_KEY: out[TOTAL_ENERGY_KEY].reshape(-1)[index : index + 1]}
            if PER_ATOM_ENERGY_KEY in out:
                fields[PER_ATOM_ENERGY_KEY] = out[PER_ATOM_ENERGY_KEY].reshape(-1)[start:stop]
            if FORCE_KEY in out:
                fields[FORCE_KEY] = out[FORCE_KEY][start:stop]
            # No volume: a cell vector is missing.
            if STRESS_KEY in out and abs(np.linalg.det(frame[CELL_KEY].numpy()[0])) > 0.0:
                fields[STRESS_KEY] = out[STRESS_KEY].reshape(-1, 3, 3)[index]
            for key, value in fields.items():
                if not np.isfinite(value).all():
                    raise DataError(
                        f"'{self.source}' returned a {key} that is not a finite number; atoms on "
                        "top of each other, or weights that are NaN, do that"
                    )
            yield Prediction({key: value * units[key] for key, value in fields.items()})
            start = stop
