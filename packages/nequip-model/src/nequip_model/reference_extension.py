"""Import of networks of extension packages, whose builders and weights keep their names.

A file of another ``nequip`` names the builder. If an installed extension package has a builder of
that name, it builds the model, and the weights are taken by name. What the config says and what the
file holds are compared: every constant, and for packages every factor that a state dict leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.archive.permitted import check_description
from nequip_core.errors import FileFormatError
from nequip_core.instantiate import import_object
from nequip_model.nn.graph_model import GraphModel
from nequip_model.reference_pickle import InertObject, non_persistent_buffers

__all__ = [
    "build_extension_model",
    "check_same_constants",
    "load_same_weights",
    "require_extension_builder",
]

_TOLERANCE = 1e-6


def require_extension_builder(target: str, arguments: Mapping[str, Any]) -> None:
    """Raise unless `target` is a builder of an installed extension package.

    The arguments come from a file: what they name is checked before anything is imported.

    Raises:
        FileFormatError: the target, or something that the arguments name, may not be built.
    """
    given = {"architecture": target, "version": None, "arguments": dict(arguments)}
    check_description(given, "the model section")


def build_extension_model(target: str, arguments: Mapping[str, Any]) -> Any:
    """Return the model of a builder of an installed extension package.

    Args:
        target: dotted path of the builder, see `require_extension_builder`.
        arguments: as in the config.

    Raises:
        ConfigError: an argument is unknown, missing or out of range.
        FileFormatError: see `require_extension_builder`.
    """
    require_extension_builder(target, arguments)
    return import_object(target)(**arguments)


def load_same_weights(
    model: GraphModel,
    state: Mapping[str, torch.Tensor],
    averages: Sequence[torch.Tensor] | None = None,
) -> None:
    """Copy the weights of a network with the same names into `model`.

    Args:
        model: built with the arguments of the network; changed in place.
        state: state dict of the network's graph model.
        averages: moving averages of the trainable parameters, in their order; taken instead.

    Raises:
        FileFormatError: a tensor is missing, left over or of another shape, or a constant has
            another value; `model` is unchanged.
    """
    own = model.state_dict()
    for what, names in (("lacks", own.keys() - state.keys()), ("has", state.keys() - own.keys())):
        if names:
            raise FileFormatError(
                f"the network of the file {what} the tensor '{min(names)}', "
                f"{'which' if what == 'lacks' else 'unlike'} the installed builder's model has: it "
                "was made by another version of the extension package"
            )
    taken = dict(state)
    parameters = [name for name, _ in model.named_parameters()]
    if averages is not None:
        if len(averages) != len(parameters):
            raise FileFormatError(
                f"the network has {len(parameters)} parameters, and {len(averages)} averages"
            )
        taken.update(zip(parameters, averages, strict=True))
    for name, value in taken.items():
        if value.shape != own[name].shape:
            raise FileFormatError(
                f"'{name}' has the shape {tuple(value.shape)}, expected {tuple(own[name].shape)}"
            )
        if name not in parameters and not _close(value, own[name]):
            raise FileFormatError(
                f"the constant '{name}' of the file is not what its config says; the file is "
                "damaged, or of another version of the extension package"
            )
    model.load_state_dict(taken, strict=True)


def check_same_constants(model: GraphModel, inert: InertObject) -> None:
    """Compare the constants that a state dict leaves out with those of a package's model.

    Raises:
        FileFormatError: types, or a constant of the same name, differ.
    """
    types = list(getattr(inert, "type_names", []))
    if types != model.type_names:
        raise FileFormatError(f"the package's model has the types {types}, not {model.type_names}")
    own = dict(model.named_buffers())
    for name, value in non_persistent_buffers(inert).items():
        if name in own and own[name].shape == value.shape and not _close(value, own[name]):
            raise FileFormatError(
                f"the package's model has {name} = {value.tolist()}, its config says "
                f"{own[name].tolist()}: the config is not the one that the model was made with"
            )


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(
        found.double(), expected.double(), rtol=_TOLERANCE, atol=_TOLERANCE * _TOLERANCE
    )
