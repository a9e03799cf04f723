"""Gated nonlinearity."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nequip_model.nn.activations import SECOND_MOMENT_SILU, SECOND_MOMENT_TANH
from nequip_model.nn.layout import Block, Layout

__all__ = ["Gate"]


def _normalised(x: torch.Tensor, parity: int) -> torch.Tensor:
    """Return SiLU of even or tanh of odd scalars, scaled to a second moment of one."""
    if parity == 1:
        return torch.nn.functional.silu(x) * SECOND_MOMENT_SILU
    return torch.tanh(x) * SECOND_MOMENT_TANH


class Gate(torch.nn.Module):
    """Scalars through a nonlinearity; every other irrep times a nonlinear scalar of its own.

    In the input layout the scalars come before the gates within their block; the output is the
    scalars, then the gated irreps.

    Args:
        layout_in: every irrep once; holds scalars, gates and gated irreps.
        scalars: blocks of scalars to keep, in output order.
        gate_parity: parity of the gates' irrep.
        gated: blocks of gated irreps, in output order; gates stand in this order.
    """

    def __init__(
        self,
        layout_in: Layout,
        scalars: Sequence[Block],
        gate_parity: int,
        gated: Sequence[Block],
    ) -> None:
        super().__init__()
        self.layout_in = layout_in
        self.scalars, self.gated = tuple(scalars), tuple(gated)
        self.gate_parity = gate_parity
        self.layout_out = Layout([*self.scalars, *self.gated])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (N, layout_out.dim) of (N, layout_in.dim)."""
        inputs = {
            (l, p): block
            for block, (_, l, p) in zip(
                self.layout_in.split(features), self.layout_in.blocks, strict=True
            )
        }
        act = {key: _normalised(block, key[1]) for key, block in inputs.items() if key[0] == 0}
        outputs = []
        kept = {parity: 0 for _, parity in act}
        for channels, l, p in self.scalars:
            outputs.append(act[l, p][:, :, :channels])
            kept[p] = channels
        if self.gated:
            start = kept[self.gate_parity]
            gates = torch.split(
                act[0, self.gate_parity][:, :, start:], [c for c, _, _ in self.gated], dim=2
            )
            for gate, (_, l, p) in zip(gates, self.gated, strict=True):
                outputs.append(inputs[l, p] * gate)
        return torch.cat([block.flatten(1) for block in outputs], dim=1)
