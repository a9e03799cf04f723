"""Weights of networks made by ``nequip`` 0.10 to 0.19, mapped into ours.

Their tensors are flat, e3nn's order: input irrep by input irrep, for each the matching output, in
C order (channels_in, [attributes,] channels_out). Ours are one tensor an irrep.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from nequip_core.errors import FileFormatError
from nequip_model.nn.graph_model import GraphModel
from nequip_model.nn.layout import irrep_name
from nequip_model.nn.linear import EquivariantLinear, SelfConnection

__all__ = ["load_reference_weights"]

_PREFIX = "model.func."
# Buffers that e3nn's code generation leaves in a state dict; they hold no weights.
_WITHOUT_WEIGHTS = re.compile(
    r"(\.output_mask|\.bias|\._w3j_\d+_\d+_\d+|\.equivariant_nonlin\..*|\.tp_scatter\.tp\.weight)$"
)


def load_reference_weights(model: GraphModel, reference: Mapping[str, torch.Tensor]) -> None:
    """Copy the weights of a reference network into `model`, which has the same architecture.

    Args:
        model: built with the arguments of the reference network; changed in place.
        reference: state dict of the reference's graph model (keys ``model.func.*``).

    Raises:
        FileFormatError: a tensor is missing, left over, or of another size; `model` is unchanged.
    """
    source = _Source(reference)
    mapped: dict[str, torch.Tensor] = {}
    energy: Any = model.model.energy
    prefix = "model.energy."
    mapped[f"{prefix}type_embedding.weight"] = source.take("type_embed.embed_module.weight")
    mapped[f"{prefix}geometry.reciprocal_cutoff"] = source.take("edge_norm._rmax_recip").reshape(-1)
    mapped[f"{prefix}radial_basis.roots"] = source.take("bessel_encode.bessel_weights")
    for name, layer in energy.named_children():
        if not name.startswith("layer"):
            continue
        theirs = f"{name}_convnet.conv"
        ours = f"{prefix}{name}"
        mapped[f"{ours}.neighbor_norm"] = layer.neighbor_norm
        linears = {
            "linear_in": (layer.linear_in, "linear_1"),
            "linear_out": (layer.linear_out, "linear_2"),
            "self_connection": (layer.self_connection, "sc"),
        }
        for child, (module, key) in linears.items():
            if module is None:
                continue
            parts = _by_irrep(module, source.take(f"{theirs}.{key}.weight"))
            mapped.update({f"{ours}.{child}.weights.{i}": part for i, part in parts.items()})
        for depth in range(len(layer.radial.weights)):
            weight = source.take(f"{theirs}.edge_mlp.mlp.{2 * depth}.weight")
            mapped[f"{ours}.radial.weights.{depth}"] = weight
    for depth in range(len(energy.readout.mlp.weights)):
        weight = source.take(f"per_atom_energy_readout.mlp_module.mlp.{2 * depth}.weight")
        mapped[f"{prefix}readout.mlp.weights.{depth}"] = weight
    for key in ("scales", "shifts"):
        table = source.take(f"per_type_energy_scale_shift.{key}")
        mapped[f"{prefix}scale_shift.{key}"] = table.reshape(-1, 1)
    source.check_empty()
    _check_sizes(model, mapped)
    model.load_state_dict(mapped, strict=True)


class _Source:
    """The reference's tensors, each to be taken once."""

    def __init__(self, reference: Mapping[str, torch.Tensor]) -> None:
        self.left = {
            key.removeprefix(_PREFIX): value
            for key, value in reference.items()
            if key != "model._empty" and not _WITHOUT_WEIGHTS.search(key)
        }

    def take(self, key: str) -> torch.Tensor:
        if key not in self.left:
            raise FileFormatError(f"the reference network has no tensor '{key}'")
        return self.left.pop(key)

    def check_empty(self) -> None:
        if self.left:
            raise FileFormatError(
                f"the reference network has tensors that this architecture lacks: "
                f"{sorted(self.left)}"
            )


def _by_irrep(
    module: EquivariantLinear | SelfConnection, flat: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Split a flat weight into one tensor an irrep, in our axis order."""
    attributes = [module.num_attributes] if isinstance(module, SelfConnection) else []
    shapes = [
        (module.layout_in.blocks[i][0], *attributes, module.layout_out.blocks[o][0])
        for i, o in module.pairs
    ]
    sizes = [math.prod(shape) for shape in shapes]
    if sum(sizes) != flat.numel():
        raise FileFormatError(f"expected {sum(sizes)} weights, the reference has {flat.numel()}")
    parts: dict[str, torch.Tensor] = {}
    for (i, _), shape, part in zip(module.pairs, shapes, torch.split(flat, sizes), strict=True):
        _, degree, parity = module.layout_in.blocks[i]
        block = part.reshape(shape)
        parts[irrep_name(degree, parity)] = block.transpose(0, 1) if attributes else block
    return parts


def _check_sizes(model: GraphModel, mapped: Mapping[str, torch.Tensor]) -> None:
    own = model.state_dict()
    for key, value in mapped.items():
        if key not in own or own[key].shape != value.shape:
            found = tuple(own[key].shape) if key in own else "nothing"
            raise FileFormatError(
                f"'{key}' has shape {tuple(value.shape)} in the reference, {found} in this model"
            )
