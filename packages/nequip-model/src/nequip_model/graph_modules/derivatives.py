"""Forces and stress of an energy made of graph modules."""

from __future__ import annotations

from typing import Any

import torch
from e3nn.o3._irreps import Irreps

from nequip_core.fields import (
    EDGE_FORCE_KEY,
    FORCE_KEY,
    PARTIAL_FORCE_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    VIRIAL_KEY,
)
from nequip_model.graph_modules.mixin import GraphModuleMixin
from nequip_model.nn import derivatives

__all__ = ["ForceStressOutput", "PartialForceOutput"]


class ForceStressOutput(GraphModuleMixin, derivatives.ForceStressOutput):
    """`nequip_model.nn.derivatives.ForceStressOutput` with the documented child name ``func``.

    Args:
        func: graph module that adds ``total_energy``.
        do_derivatives: compute the derivatives, or energies only.
    """

    def __init__(self, func: Any, do_derivatives: bool = True) -> None:
        super().__init__(func, do_derivatives)
        # The child is named as in checkpoints of extension models; `energy` is its second name.
        self.func = self._modules.pop("energy")
        self.register_buffer("_empty", torch.empty(0))
        self._init_irreps(
            irreps_in=func.irreps_in,
            irreps_out={
                **func.irreps_out,
                **dict.fromkeys((FORCE_KEY, STRESS_KEY, VIRIAL_KEY, EDGE_FORCE_KEY), "1o"),
            },
        )

    @property
    def energy(self) -> Any:  # type: ignore[override]
        """The module that adds ``total_energy``."""
        return self.func


class PartialForceOutput(GraphModuleMixin, torch.nn.Module):
    """Add ``partial_forces`` (N, N, 3), -dE_i/dpos_j for atomic energies E_i, and ``forces``.

    For one frame. The forces are the partial forces summed over i.

    Args:
        func: graph module that adds ``atomic_energy``.
        vectorize: one backward pass for all atoms instead of one each; needs N times the memory.
        vectorize_warnings: taken for the documented signature; nothing here falls back to a loop.
    """

    def __init__(
        self, func: Any, vectorize: bool = False, vectorize_warnings: bool = False
    ) -> None:
        super().__init__()
        self.func = func
        self.vectorize = vectorize
        vectors = Irreps("1x1o")
        self._init_irreps(
            irreps_in=func.irreps_in,
            irreps_out={**func.irreps_out, PARTIAL_FORCE_KEY: vectors, FORCE_KEY: vectors},
        )

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with partial and total forces."""
        given = data[POSITIONS_KEY]
        positions = given.detach().requires_grad_(True)
        with torch.enable_grad():
            out = self.func({**data, POSITIONS_KEY: positions})
            energies = out[PER_ATOM_ENERGY_KEY].reshape(-1)
            rows = torch.eye(energies.shape[0], dtype=energies.dtype, device=energies.device)
            if self.vectorize:
                (jacobian,) = torch.autograd.grad(
                    energies, positions, rows, create_graph=self.training, is_grads_batched=True
                )
            else:
                jacobian = torch.stack(
                    [
                        torch.autograd.grad(
                            energies,
                            positions,
                            row,
                            retain_graph=True,
                            create_graph=self.training,
                        )[0]
                        for row in rows
                    ]
                )
        out[PARTIAL_FORCE_KEY] = -jacobian
        out[FORCE_KEY] = -jacobian.sum(0)
        out[POSITIONS_KEY] = given
        if not self.training:
            out = {key: value.detach() for key, value in out.items()}
        return out
