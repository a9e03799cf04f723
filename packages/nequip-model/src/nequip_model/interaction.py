"""Construction of one interaction layer from irreps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nequip_core.errors import ConfigError
from nequip_model.irreps import coupling, layer_irreps
from nequip_model.nn.convolution import Convolution
from nequip_model.nn.gate import Gate
from nequip_model.nn.interaction import InteractionLayer
from nequip_model.nn.layout import Layout
from nequip_model.nn.linear import EquivariantLinear, SelfConnection
from nequip_model.nn.mlp import ScalarMLP

__all__ = ["interaction_layer"]


def interaction_layer(
    layout_in: Layout,
    target: Layout,
    l_max: int,
    *,
    num_attributes: int,
    radial_dims: list[int],
    self_connection: bool,
    residual: bool,
    nonlinearity: str,
    scalar_nonlinearities: Mapping[str, str],
    gate_nonlinearities: Mapping[str, str],
    avg_num_neighbors: list[float],
    dtype: torch.dtype,
    harmonics_parity: int = -1,
) -> InteractionLayer:
    """Return a layer; the order of construction is the order of the random draws.

    Args:
        layout_in: features that go in.
        target: features wanted; the reachable ones come out.
        l_max: degree of the edge harmonics.
        num_attributes: A, attributes of an atom.
        radial_dims: sizes of the radial network but the last, from B on.
        self_connection: with a self-connection.
        residual: add the input to the output, where the layouts are the same.
        nonlinearity: ``gate`` or ``norm``.
        scalar_nonlinearities: names for even (``e``) and odd (``o``) scalars; ``norm`` takes that
            for the even ones.
        gate_nonlinearities: names for even and odd gates.
        avg_num_neighbors: one number, or one a type.
        dtype: of the weights.
        harmonics_parity: see `layer_irreps`.

    Raises:
        ConfigError: nothing of the target is reachable, or a nonlinearity of odd scalars has no
            parity.
    """
    irreps = layer_irreps(
        layout_in, l_max, target, nonlinearity == "gate", harmonics_parity=harmonics_parity
    )
    linear_in = EquivariantLinear(layout_in, layout_in, dtype)
    couplings = [
        coupling(layout_in.blocks[place][1], l_sh, l_out, dtype)
        for place, l_sh, l_out, _ in irreps.paths
    ]
    convolution = Convolution(layout_in, irreps.paths, irreps.convolved, couplings, l_max)
    radial = ScalarMLP([*radial_dims, convolution.weight_numel], "silu", dtype)
    linear_out = EquivariantLinear(irreps.convolved, irreps.mixed, dtype)
    own = (
        SelfConnection(layout_in, num_attributes, irreps.mixed, dtype) if self_connection else None
    )
    gate: Any
    if nonlinearity == "gate":
        try:
            gate = Gate(
                irreps.mixed,
                irreps.scalars,
                irreps.gate_parity,
                irreps.gated,
                scalar_nonlinearities,
                gate_nonlinearities,
            )
        except ValueError as error:
            raise ConfigError(f"convnet_nonlinearity: {error}") from error
    else:
        # Imported here: what a package carries are the modules that its model uses.
        from nequip_model.nn.norm_nonlinearity import NormNonlinearity

        gate = NormNonlinearity(irreps.mixed, scalar_nonlinearities["e"])
    return InteractionLayer(
        linear_in=linear_in,
        radial=radial,
        convolution=convolution,
        linear_out=linear_out,
        self_connection=own,
        gate=gate,
        avg_num_neighbors=avg_num_neighbors,
        dtype=dtype,
        residual=residual and gate.layout_out == layout_in,
    )
