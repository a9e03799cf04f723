"""Many ASE structures through a model, several in one call. Needs ``nequip-integrations[ase]``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from nequip_core.compile_targets import BATCH
from nequip_core.errors import ConfigError, NequIPError
from nequip_core.fields import (
    FORCE_KEY,
    PER_ATOM_ENERGY_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_core.frames import Frame, batched_from_list, num_edges, num_nodes
from nequip_core.neighbors import DEFAULT_BACKEND
from nequip_core.saved_model import SOLE_MODEL
from nequip_integrations.adapter import ModelAdapter
from nequip_integrations.ase_structures import ase_results, input_frame
from nequip_integrations.loading import DEFAULT_SKIN
from nequip_integrations.preparation import Transform

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["DEFAULT_MAX_EDGES", "NequIPBatchEvaluator"]

DEFAULT_MAX_EDGES = 50_000
"""Atoms and edges of one call, together."""


class NequIPBatchEvaluator(ModelAdapter):
    """Energies, forces and stresses of many structures, several of them in one call of the model.

    ``for results in evaluator(structures)`` takes structures one by one and yields the results of
    each, in order, under the names and in the units of `ase.NequIPCalculator`; no more than
    one batch of them is in memory. It has the same constructors from files: packages and
    checkpoints run eagerly or are compiled with the target ``batch``; a compiled file must be of
    that target.

    Args:
        model: see `ase.NequIPCalculator`.
        device: where to run.
        energy_units_to_eV: eV in one energy unit of the model; default: what its file declares,
            else 1.
        length_units_to_A: Angstrom in one length unit of the model; default likewise.
        transforms: for a model that is loaded already.
        max_edges: most atoms and edges in one call, together; a structure that has more is
            computed alone.
        chemical_species_to_atom_type_map: this and what follows: see `ase.NequIPCalculator`.
        neighborlist_backend: name of a backend.
        model_name: which model of a package or checkpoint.
        modifiers: names of modifiers to apply.
        trust_code: consent to running code of the file.
        allow_tf32: multiply matrices in TF32 on GPUs.
        compile: False runs a package or checkpoint without compilation.
        require_compiled: stop where the model cannot run compiled.

    Raises:
        ConfigError: an argument does not fit. Files raise what
            `nequip_core.runtime.open_model` says.
    """

    compile_target = BATCH
    keeps_neighbor_list = False  # structures that do not follow each other share none

    def __init__(
        self,
        model: Any,
        device: str | torch.device = "cpu",
        energy_units_to_eV: float | None = None,
        length_units_to_A: float | None = None,
        transforms: Sequence[Transform] = (),
        *,
        max_edges: int = DEFAULT_MAX_EDGES,
        chemical_species_to_atom_type_map: Mapping[str, str] | bool | None = None,
        neighborlist_backend: str = DEFAULT_BACKEND,
        model_name: str = SOLE_MODEL,
        modifiers: Sequence[str] = (),
        trust_code: bool | None = None,
        allow_tf32: bool = False,
        compile: bool = True,  # noqa: A002
        require_compiled: bool = False,
    ) -> None:
        if max_edges < 1:
            raise ConfigError(f"max_edges must be 1 or more, got {max_edges}")
        self.max_edges = int(max_edges)
        opening = {
            "chemical_species_to_atom_type_map": chemical_species_to_atom_type_map,
            "neighborlist_backend": neighborlist_backend,
            "neighborlist_skin": DEFAULT_SKIN,
            "model_name": model_name,
            "modifiers": tuple(modifiers),
            "trust_code": trust_code,
            "allow_tf32": allow_tf32,
            "compile": compile,
            "require_compiled": require_compiled,
        }
        self.adopt(model, device, transforms, energy_units_to_eV, length_units_to_A, opening)

    def __call__(self, structures: Iterable[Atoms]) -> Iterator[dict[str, Any]]:
        """Yield the results of each structure, in order.

        Raises:
            UnknownSpeciesError: a structure has a species that the model does not know.
            DataError: a structure is empty or not finite, or the model returned NaN.
            ModelError: there is too little memory for a batch.
        """
        frames: list[Frame] = []
        volumes: list[bool] = []
        size = first = 0
        for number, atoms in enumerate(structures):
            with _naming_structure(number):
                frame = self.model_input(input_frame(self, atoms))
            room = num_edges(frame) + num_nodes(frame)
            if frames and size + room > self.max_edges:
                yield from self._computed(frames, volumes, first)
                frames, volumes, size, first = [], [], 0, number
            frames.append(frame)
            volumes.append(atoms.cell.volume > 0.0)
            size += room
        if frames:
            yield from self._computed(frames, volumes, first)

    def _computed(
        self, frames: list[Frame], volumes: list[bool], first: int
    ) -> Iterator[dict[str, Any]]:
        out = self.call_model(batched_from_list(frames))
        atoms = [num_nodes(frame) for frame in frames]
        parts: dict[str, Sequence[torch.Tensor]] = {}
        for key in (PER_ATOM_ENERGY_KEY, FORCE_KEY):
            if key in out:
                parts[key] = out[key].split(atoms)
        for key in (TOTAL_ENERGY_KEY, STRESS_KEY):
            if key in out:
                parts[key] = out[key].split(1)
        for number, has_volume in enumerate(volumes):
            one = {key: part[number] for key, part in parts.items()}
            with _naming_structure(first + number):
                results = ase_results(self, one, has_volume)
            yield results


@contextmanager
def _naming_structure(number: int) -> Iterator[None]:
    """Say which structure an error is about, in an error of the same class."""
    try:
        yield
    except NequIPError as error:
        raise type(error)(f"structure {number}: {error}") from error
