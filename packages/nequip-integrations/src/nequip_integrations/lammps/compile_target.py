"""The compile target ``lammps``: everything that LAMMPS asks for, on any number of processes.

| field | shape, dtype | |
|---|---|---|
| `edge_vectors` | (E, 3) float64 | from the centre to the neighbor, length |
| `edge_index` | (2, E) int64 | row 0 the centre, row 1 the neighbor |
| `atom_types` | (N,) int64 | index into the model's type names |
| `owned_atoms` | (N,) float64 | 1 where the energy of an atom counts, 0 where it does not |

Returned are `atomic_energy` (N, 1), of all atoms, and `edge_forces` (E, 3) = +dE/d(edge_vectors),
energy / length, of the energy E of the owned atoms. A process hands over its own atoms and those
that their energies depend on; forces and virials of all kinds are sums over its edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nequip_core.compile_targets import CompileTarget
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_FORCE_KEY,
    EDGE_INDEX_KEY,
    EDGE_VECTORS_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    register_fields,
)
from nequip_core.frames import Frame
from nequip_core.modifiers import apply_modifiers, get_all_modifiers

__all__ = ["LAMMPS", "OWNED_ATOMS_KEY", "EnergyOfOwnedAtoms", "with_owned_atoms"]

OWNED_ATOMS_KEY = "owned_atoms"
register_fields(node_fields=[OWNED_ATOMS_KEY])

_WITHOUT_FORCES = "disable_ForceStressOutput"


class EnergyOfOwnedAtoms(torch.nn.Module):
    """A graph model whose derivatives are those of the energy of some atoms only.

    Args:
        model: a graph model; its own computation of forces is switched off in place.
    """

    is_graph_model = True

    def __init__(self, model: Any) -> None:
        super().__init__()
        if _WITHOUT_FORCES in get_all_modifiers(model):
            model = apply_modifiers(model, [{"modifier": _WITHOUT_FORCES}])
        self.model = model
        self.type_names = list(model.type_names)
        self.r_max = float(model.r_max)
        self.model_dtype = str(model.model_dtype)

    @property
    def metadata(self) -> dict[str, str]:
        """What a compiled file states about the model."""
        return self.model.metadata

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the output fields of the target `LAMMPS`, without their history."""
        fields = (EDGE_INDEX_KEY, ATOM_TYPE_KEY)
        with torch.enable_grad():
            vectors = data[EDGE_VECTORS_KEY].detach().requires_grad_(True)
            inputs = {**{name: data[name] for name in fields}, EDGE_VECTORS_KEY: vectors}
            energies = self.model(inputs)[PER_ATOM_ENERGY_KEY]
            owned = data[OWNED_ATOMS_KEY].reshape(-1, 1).to(energies.dtype)
            (gradient,) = torch.autograd.grad([(energies * owned).sum()], [vectors])
        return {PER_ATOM_ENERGY_KEY: energies.detach(), EDGE_FORCE_KEY: gradient.detach()}


def with_owned_atoms(frame: Frame) -> Frame:
    """Return edge vectors of a frame, and two of three atoms as owned ones.

    Args:
        frame: one frame with a neighbor list: ``pos`` (N, 3), ``atom_types`` (N,), ``edge_index``
            (2, E), and, where it is periodic, ``cell`` and ``edge_cell_shift`` (E, 3).
    """
    positions, (centre, neighbor) = frame[POSITIONS_KEY], frame[EDGE_INDEX_KEY]
    vectors = positions[neighbor] - positions[centre]
    if CELL_KEY in frame and EDGE_CELL_SHIFT_KEY in frame:
        cell = frame[CELL_KEY].reshape(3, 3).to(vectors.dtype)
        vectors = vectors + frame[EDGE_CELL_SHIFT_KEY].to(vectors.dtype) @ cell
    index = torch.arange(positions.shape[0], device=positions.device)
    return {
        POSITIONS_KEY: positions,
        EDGE_VECTORS_KEY: vectors,
        EDGE_INDEX_KEY: frame[EDGE_INDEX_KEY],
        ATOM_TYPE_KEY: frame[ATOM_TYPE_KEY].reshape(-1),
        OWNED_ATOMS_KEY: index.remainder(3).ne(2).to(torch.float64),
    }


@dataclass(frozen=True)
class _OwnedAtomsTarget(CompileTarget):
    """A target that compiles a model for the energy of some of its atoms."""

    def adapt(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return what is compiled in place of the model; nequip-compile asks targets for it."""
        return EnergyOfOwnedAtoms(model)


LAMMPS = _OwnedAtomsTarget(
    name="lammps",
    inputs=(EDGE_VECTORS_KEY, EDGE_INDEX_KEY, ATOM_TYPE_KEY, OWNED_ATOMS_KEY),
    outputs=(PER_ATOM_ENERGY_KEY, EDGE_FORCE_KEY),
    dynamic_frames=False,
    prepare=with_owned_atoms,
)
"""The pair styles ``nequip`` and ``allegro`` of `nequip_integrations.lammps`, on any number of
processes, with the virial of each atom."""
