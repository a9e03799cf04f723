"""Forces, virial and stress by automatic differentiation."""

from __future__ import annotations

from typing import Any

import torch

from nequip_core.fields import (
    ATOMIC_VIRIAL_KEY,
    BATCH_KEY,
    CELL_KEY,
    EDGE_FORCE_KEY,
    EDGE_INDEX_KEY,
    EDGE_VECTORS_KEY,
    FORCE_KEY,
    NUM_NODES_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
    VIRIAL_KEY,
)
from nequip_model.nn.modifier import model_modifier

__all__ = ["ForceStressOutput"]


class ForceStressOutput(torch.nn.Module):
    """Add ``forces`` (N, 3), ``virial`` (F, 3, 3) and, with a cell, ``stress`` (F, 3, 3).

    With a symmetric strain eta of each frame, pos <- pos + pos eta and cell <- cell + cell eta:
    forces = -dE/dpos, virial = -dE/deta, stress = (dE/deta) / V, V = |a . (b x c)|. A frame whose
    cell has no volume has no stress; its entry is zero, never NaN or infinite, so that the same
    operations run for every input. Whoever uses a stress looks at the cell first.

    With ``edge_vectors`` (E, 3) among the inputs, positions and strain do not enter: added is only
    ``edge_forces`` (E, 3) = +dE/d(edge_vectors), energy / length.

    With `do_atomic_virial` also ``atomic_virial`` (N, 3, 3), energy: every edge gives half of
    -(d (x) dE/dd + dE/dd (x) d) / 2 to each of its two atoms, d being its vector. The sum over the
    atoms of a frame is ``virial``, as long as the energy depends on positions through the edge
    vectors only. How a many-body virial is divided among atoms is a convention; this is the one of
    ``compute stress/atom`` of LAMMPS for pairs, before its sign and without its kinetic part.

    Args:
        energy: module that adds ``total_energy`` (F, 1).
        do_derivatives: compute the derivatives, or energies only.
        do_atomic_virial: compute ``atomic_virial`` besides.

    Source: Knuth et al., Comput. Phys. Commun. 190, 33 (2015), for the strain derivative; Thompson,
    Plimpton and Mattson, J. Chem. Phys. 131, 154107 (2009), for the virial of pairs shared equally;
    Fan et al., Phys. Rev. B 92, 094301 (2015), for what is not unique about it.
    """

    def __init__(
        self,
        energy: torch.nn.Module,
        do_derivatives: bool = True,
        do_atomic_virial: bool = False,
    ) -> None:
        super().__init__()
        self.energy = energy
        self.do_derivatives = do_derivatives
        self.do_atomic_virial = do_atomic_virial

    @model_modifier(persistent=True)
    @classmethod
    def enable_ForceStressOutput(cls, model: torch.nn.Module) -> torch.nn.Module:  # noqa: N802
        """Compute forces, virial and stress besides energies."""
        return cls._set(model, do_derivatives=True)

    @model_modifier(persistent=True)
    @classmethod
    def disable_ForceStressOutput(cls, model: torch.nn.Module) -> torch.nn.Module:  # noqa: N802
        """Compute energies only."""
        return cls._set(model, do_derivatives=False)

    @model_modifier(persistent=True)
    @classmethod
    def enable_AtomicVirial(cls, model: torch.nn.Module) -> torch.nn.Module:  # noqa: N802
        """Compute the virial of every atom besides forces, virial and stress."""
        return cls._set(model, do_derivatives=True, do_atomic_virial=True)

    @classmethod
    def _set(cls, model: torch.nn.Module, **flags: bool) -> torch.nn.Module:
        for module in model.modules():
            if isinstance(module, cls):
                for name, value in flags.items():
                    setattr(module, name, value)
        return model

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with energies and their derivatives.

        In training mode the derivatives can be differentiated again, for a loss on them; in eval
        mode every output is detached.
        """
        if not self.do_derivatives:
            return self.energy(data)
        with torch.enable_grad():
            if EDGE_VECTORS_KEY in data:
                data = self._by_edge_vectors(data)
            else:
                data = self._by_positions(data)
        if not self.training:
            data = {key: _detached(value) for key, value in data.items()}
        return data

    def _by_edge_vectors(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        vectors = data[EDGE_VECTORS_KEY]
        if not vectors.requires_grad:
            vectors = vectors.detach().requires_grad_(True)
        data[EDGE_VECTORS_KEY] = vectors
        data = self.energy(data)
        (by_vector,) = torch.autograd.grad(
            [data[TOTAL_ENERGY_KEY].sum()], [vectors], create_graph=self.training
        )
        data[EDGE_FORCE_KEY] = by_vector
        return data

    def _by_positions(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        given = {key: data[key] for key in (POSITIONS_KEY, CELL_KEY) if key in data}
        positions, strain = self._strain_(data)
        data = self.energy(data)
        wanted = [positions, strain]
        if self.do_atomic_virial:
            wanted.append(data[EDGE_VECTORS_KEY])
        gradients = torch.autograd.grad(
            [data[TOTAL_ENERGY_KEY].sum()], wanted, create_graph=self.training
        )
        by_strain = gradients[1]
        data[FORCE_KEY] = -gradients[0]
        data[VIRIAL_KEY] = -by_strain
        if self.do_atomic_virial:
            data[ATOMIC_VIRIAL_KEY] = _atomic_virial(data, gradients[2])
        if CELL_KEY in given:
            cell = given[CELL_KEY].reshape(-1, 3, 3)
            # Not linalg.det: compiled code has no operation of its own for it.
            volume = (cell[:, 0] * torch.linalg.cross(cell[:, 1], cell[:, 2])).sum(-1).abs()
            volume = volume.reshape(-1, 1, 1)
            filled = torch.where(volume > 0.0, volume, torch.ones_like(volume))
            data[STRESS_KEY] = by_strain / filled * (volume > 0.0).to(by_strain.dtype)
        data.update(given)
        return data

    @staticmethod
    def _strain_(data: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Strain positions and cell in place; return what to differentiate by."""
        positions = data[POSITIONS_KEY]
        if not positions.requires_grad:
            positions = positions.detach().requires_grad_(True)
        frames = data[NUM_NODES_KEY].shape[0] if BATCH_KEY in data else 1
        strain = positions.new_zeros((frames, 3, 3)).requires_grad_(True)
        symmetric = 0.5 * (strain + strain.transpose(-1, -2))
        if BATCH_KEY in data:
            by_atom = symmetric.index_select(0, data[BATCH_KEY])
            shift = torch.bmm(positions.unsqueeze(1), by_atom).squeeze(1)
        else:
            shift = positions @ symmetric[0]
        data[POSITIONS_KEY] = positions + shift
        if CELL_KEY in data:
            cell = data[CELL_KEY].reshape(-1, 3, 3)
            data[CELL_KEY] = cell + torch.bmm(cell, symmetric)
        return positions, strain


def _atomic_virial(data: dict[str, torch.Tensor], by_vector: torch.Tensor) -> torch.Tensor:
    """Return the virial shared among atoms, (N, 3, 3); `by_vector` is dE/d(edge_vectors)."""
    centre, neighbour = data[EDGE_INDEX_KEY][0], data[EDGE_INDEX_KEY][1]
    product = data[EDGE_VECTORS_KEY].unsqueeze(-1) * by_vector.unsqueeze(-2)
    half = -0.25 * (product + product.transpose(-1, -2))
    atoms = half.new_zeros((data[POSITIONS_KEY].shape[0], 3, 3))
    return atoms.index_add(0, centre, half).index_add(0, neighbour, half)


def _detached(value: Any) -> Any:
    """Return a tensor without its history; what an engine hands through is no tensor."""
    return value.detach() if isinstance(value, torch.Tensor) else value
