"""Gated nonlinearity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from nequip_model.nn.activations import PARITIES, SECOND_MOMENTS, activation
from nequip_model.nn.layout import Block, Layout, merged

__all__ = ["DEFAULT_NONLINEARITIES", "Gate"]

DEFAULT_NONLINEARITIES = {"e": "silu", "o": "tanh"}


class Gate(torch.nn.Module):
    """Scalars through a nonlinearity; every other irrep times a nonlinear scalar of its own.

    The nonlinearities are scaled to a second moment of one. In the input layout the scalars come
    before the gates within their block; the output is the scalars, then the gated irreps. An even
    nonlinearity (``abs``) makes even scalars of odd ones; an odd gate turns the parity of what it
    multiplies.

    Args:
        layout_in: every irrep once; holds scalars, gates and gated irreps.
        scalars: blocks of scalars to keep, in output order.
        gate_parity: parity of the gates' irrep.
        gated: blocks of gated irreps, in output order; gates stand in this order.
        scalar_nonlinearities: names for even (``e``) and odd (``o``) scalars.
        gate_nonlinearities: names for even and odd gates.

    Raises:
        ValueError: a nonlinearity for odd numbers has no parity.
    """

    def __init__(
        self,
        layout_in: Layout,
        scalars: Sequence[Block],
        gate_parity: int,
        gated: Sequence[Block],
        scalar_nonlinearities: Mapping[str, str] = DEFAULT_NONLINEARITIES,
        gate_nonlinearities: Mapping[str, str] = DEFAULT_NONLINEARITIES,
    ) -> None:
        super().__init__()
        self.layout_in = layout_in
        self.scalars, self.gated = tuple(scalars), tuple(gated)
        self.gate_parity = gate_parity
        self.scalar_nonlinearities = {1: scalar_nonlinearities["e"], -1: scalar_nonlinearities["o"]}
        self.gate_nonlinearity = gate_nonlinearities["e" if gate_parity == 1 else "o"]
        kept = [(c, l, _parity(self.scalar_nonlinearities[p], p)) for c, l, p in self.scalars]
        sign = _parity(self.gate_nonlinearity, gate_parity) if self.gated else 1
        self.layout_out = Layout([*merged(kept), *((c, l, p * sign) for c, l, p in self.gated)])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (N, layout_out.dim) of (N, layout_in.dim)."""
        inputs = {
            (l, p): block
            for block, (_, l, p) in zip(
                self.layout_in.split(features), self.layout_in.blocks, strict=True
            )
        }
        outputs = []
        kept = dict.fromkeys((1, -1), 0)
        for channels, l, p in self.scalars:
            scalars = inputs[l, p][:, :, :channels]
            outputs.append(_normalised(scalars, self.scalar_nonlinearities[p]))
            kept[p] = channels
        if self.gated:
            start = kept[self.gate_parity]
            gates = torch.split(
                _normalised(inputs[0, self.gate_parity][:, :, start:], self.gate_nonlinearity),
                [c for c, _, _ in self.gated],
                dim=2,
            )
            for gate, (_, l, p) in zip(gates, self.gated, strict=True):
                outputs.append(inputs[l, p] * gate)
        return torch.cat([block.flatten(1) for block in outputs], dim=1)


def _normalised(x: torch.Tensor, nonlinearity: str) -> torch.Tensor:
    """Return the nonlinearity of x, scaled to a second moment of one."""
    return activation(nonlinearity)(x) * SECOND_MOMENTS[nonlinearity]


def _parity(nonlinearity: str, parity: int) -> int:
    """Return the parity of the nonlinearity of a scalar of a parity.

    Raises:
        ValueError: the scalar is odd and the nonlinearity neither even nor odd.
    """
    if parity == 1:
        return 1
    if nonlinearity not in PARITIES:
        raise ValueError(
            f"the nonlinearity of odd (o) scalars must be one of {sorted(PARITIES)}, which are "
            f"even or odd functions, got {nonlinearity!r}"
        )
    return PARITIES[nonlinearity]
