"""Weights of networks made by ``nequip`` 0.10 to 0.19, mapped into ours.

Their tensors are flat, e3nn's order: input irrep by input irrep, for each the matching output, in
C order (channels_in, [attributes,] channels_out). Ours are one tensor an irrep. Every tensor of
theirs is used once: as a weight, or, where it is a constant, for comparison with our constant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.errors import FileFormatError
from nequip_model.coupling import wigner_3j
from nequip_model.nn.graph_model import GraphModel
from nequip_model.nn.layout import irrep_name
from nequip_model.nn.linear import EquivariantLinear, SelfConnection

__all__ = ["load_reference_weights", "reference_parameters"]

# Networks without derivatives, up to 0.15, lack the middle part.
_PREFIX = re.compile(r"^model\.(func\.)?")
# What e3nn's modules without weights, or without bias, leave in a state dict.
_EMPTY = re.compile(r"(^_empty|\.bias|\.equivariant_nonlin\..*weight|\.tp\.weight)$")
_WIGNER = re.compile(r"\._w3j_(\d+)_(\d+)_(\d+)$")
_MASK = ".output_mask"


def load_reference_weights(
    model: GraphModel,
    reference: Mapping[str, torch.Tensor],
    averages: Sequence[torch.Tensor] | None = None,
) -> None:
    """Copy the weights of a reference network into `model`, which has the same architecture.

    Args:
        model: built with the arguments of the reference network; changed in place.
        reference: state dict of the reference's graph model (keys ``model.func.*``, or ``model.*``
            without derivatives), in its order.
        averages: moving averages of the reference's trainable parameters, in the reference's order
            of parameters; taken instead of the weights.

    Raises:
        FileFormatError: a tensor is missing, left over, or of another size, or a constant has
            another value; `model` is unchanged.
    """
    source = _Source(reference)
    mapped: dict[str, torch.Tensor] = {}
    if averages is not None:
        source.replace_parameters(reference_parameters(model, reference), averages)
    energy: Any = getattr(model.model, "energy", model.model)
    prefix = "model.energy." if energy is not model.model else "model."
    children = dict(energy.named_children())
    mapped[f"{prefix}geometry.reciprocal_cutoff"] = source.take("edge_norm._rmax_recip").reshape(-1)
    if "type_embedding" in children:  # a network, not a pair potential alone
        _take_ends(source, energy, prefix, mapped)
    for name, layer in children.items():
        if name.startswith("layer"):
            _take_layer(source, layer, name, prefix + name, mapped)
    if "pair_potential" in children:
        source.check_pair_potential(energy.pair_potential)
    source.check_constants(energy)
    source.check_empty()
    _check_sizes(model, mapped)
    model.load_state_dict({**_unmapped(model, mapped), **mapped}, strict=True)


def _take_ends(source: _Source, energy: Any, prefix: str, mapped: dict[str, Any]) -> None:
    """Map what comes before the layers, and what comes after them."""
    mapped[f"{prefix}type_embedding.weight"] = source.take("type_embed.embed_module.weight")
    for name, _ in energy.type_embedding.named_parameters():
        if name != "weight":  # of a categorical field of the graph
            field = name.removeprefix("categorical.")
            key = f"type_embed.categorical_graph_field_embed_modules.{field}.weight"
            mapped[f"{prefix}type_embedding.{name}"] = source.take(key)
    mapped[f"{prefix}radial_basis.roots"] = source.take("bessel_encode.bessel_weights")
    for depth, key in enumerate(source.mlp_keys("per_atom_energy_readout.mlp_module")):
        mapped[f"{prefix}readout.mlp.weights.{depth}"] = source.take(key)
    own = energy.scale_shift.state_dict()
    for key in ("scales", "shifts"):
        table = source.take(f"per_type_energy_scale_shift.{key}").reshape(-1, 1)
        # One row for all types where we train one a type.
        one_for_all = table.shape[0] == 1 and own[key].shape[0] > 1
        mapped[f"{prefix}scale_shift.{key}"] = (
            table.expand(own[key].shape).clone() if one_for_all else table
        )


def _take_layer(source: _Source, layer: Any, name: str, ours: str, mapped: dict[str, Any]) -> None:
    """Map one interaction layer."""
    theirs = f"{name}_convnet.conv"
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
    for depth, key in enumerate(source.mlp_keys(f"{theirs}.edge_mlp")):
        mapped[f"{ours}.radial.weights.{depth}"] = source.take(key)


def reference_parameters(model: GraphModel, reference: Mapping[str, torch.Tensor]) -> list[str]:
    """Return those keys of `reference` that are parameters, in the reference's order.

    What is a parameter follows from `model`: roots, scales and shifts may be constants.
    """
    own = dict(model.named_parameters())
    constants = {
        "bessel_encode.bessel_weights": "radial_basis.roots",
        "per_type_energy_scale_shift.scales": "scale_shift.scales",
        "per_type_energy_scale_shift.shifts": "scale_shift.shifts",
    }
    fixed = {
        theirs for theirs, ours in constants.items() if not any(key.endswith(ours) for key in own)
    }
    short = {key: _PREFIX.sub("", key) for key in reference}
    return [key for key, name in short.items() if not _is_constant(name) and name not in fixed]


def _is_constant(key: str) -> bool:
    return bool(
        _EMPTY.search(key)
        or _WIGNER.search(key)
        or key.endswith((_MASK, "edge_norm._rmax_recip"))
        or "pair_potential." in key
    )


class _Source:
    """The reference's tensors, each to be taken once."""

    def __init__(self, reference: Mapping[str, torch.Tensor]) -> None:
        self.left = {_PREFIX.sub("", key): value for key, value in reference.items()}

    def take(self, key: str) -> torch.Tensor:
        if key not in self.left:
            raise FileFormatError(f"the reference network has no tensor '{key}'")
        return self.left.pop(key)

    def mlp_keys(self, prefix: str) -> list[str]:
        """Return the keys of an MLP's weights in order, in either of its two forms."""
        found = [key for key in self.left if re.match(re.escape(prefix) + r"\.mlp\.", key)]
        return sorted(found, key=lambda key: int(re.findall(r"\d+", key)[-1]))

    def replace_parameters(self, keys: Sequence[str], values: Sequence[torch.Tensor]) -> None:
        if len(keys) != len(values):
            raise FileFormatError(
                f"the reference network has {len(keys)} parameters, and {len(values)} averages"
            )
        for key, value in zip(keys, values, strict=True):
            name = _PREFIX.sub("", key)
            if self.left[name].shape != value.shape:
                raise FileFormatError(
                    f"the average of '{name}' has shape {tuple(value.shape)}, expected "
                    f"{tuple(self.left[name].shape)}"
                )
            self.left[name] = value

    def check_pair_potential(self, zbl: Any) -> None:
        """Take the constants of a ZBL potential and compare them with ours."""
        if not hasattr(zbl, "coulomb"):
            raise FileFormatError(
                "of the reference's pair potentials only ZBL can be imported, the network has "
                f"{type(zbl).__name__}"
            )
        expected = {"atomic_numbers": zbl.atomic_numbers, "_qqr2exesquare": 0.5 * zbl.coulomb}
        for name, value in expected.items():
            key = f"pair_potential.{name}"
            found = self.take(key).double()
            if not torch.allclose(found, torch.as_tensor(value).double(), rtol=1e-6):
                raise FileFormatError(f"the reference network's '{key}' is {found.tolist()}")

    def check_constants(self, energy: Any) -> None:
        """Take the constants that e3nn generates, and compare them with what they must be."""
        for key in [key for key in self.left if _is_constant(key)]:
            value = self.take(key)
            degrees = _WIGNER.search(key)
            if _EMPTY.search(key):
                expected = value.new_zeros(0)
            elif degrees:
                l1, l2, l3 = (int(l) for l in degrees.groups())
                expected = wigner_3j(l1, l2, l3)
            else:
                expected = _mask(energy, key)
            if value.shape != expected.shape or not torch.allclose(
                value.double(), expected.double(), rtol=0.0, atol=1e-6
            ):
                raise FileFormatError(
                    f"the reference network's constant '{key}' is not what it has to be; the file "
                    "is damaged, or of a version that this import does not know"
                )

    def check_empty(self) -> None:
        if self.left:
            raise FileFormatError(
                f"the reference network has tensors that this architecture lacks: "
                f"{sorted(self.left)}"
            )


def _mask(energy: Any, key: str) -> torch.Tensor:
    """Return the mask of outputs that are not constantly zero, of a module of a layer."""
    number = key.split("_convnet.")[0]
    layer = dict(energy.named_children())[number]
    if key.endswith("linear_1.output_mask"):
        return _reached(layer.linear_in)
    if key.endswith("linear_2.output_mask"):
        return _reached(layer.linear_out)
    if key.endswith("sc.output_mask"):
        return _reached(layer.self_connection)
    if ".equivariant_nonlin.norm." in key:  # one length a channel
        return torch.ones(sum(channels for channels, _, _ in layer.gate.layout_out.blocks))
    if key.endswith("tp.output_mask"):
        return torch.ones(layer.convolution.layout_out.dim)
    gated = getattr(layer.gate, "gated", None)
    if gated is None:  # a nonlinearity of norms: one scalar times each component
        return torch.ones(layer.gate.layout_out.dim)
    return torch.ones(sum(channels * (2 * l + 1) for channels, l, _ in gated))


def _reached(module: EquivariantLinear | SelfConnection) -> torch.Tensor:
    places = {o for _, o in module.pairs}
    sizes = module.layout_out.sizes
    return torch.cat(
        [torch.full((size,), float(place in places)) for place, size in enumerate(sizes)]
    )


def _unmapped(model: GraphModel, mapped: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what only our state dict has: constants that the builder computed.

    Raises:
        FileFormatError: a trainable weight is among them.
    """
    trainable = {name for name, _ in model.named_parameters()}
    missing = sorted(trainable - set(mapped))
    if missing:
        raise FileFormatError(f"the reference network has no weights for {missing}")
    return {key: value for key, value in model.state_dict().items() if key not in mapped}


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
