"""A trained model for further atom types, each of which starts as a copy of a known one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.errors import ConfigError, closest
from nequip_core.instantiate import instantiate
from nequip_core.species import atomic_number
from nequip_model.architecture import describe, rebuild_described

__all__ = ["ModelWithNewTypes"]


def ModelWithNewTypes(  # noqa: N802 - used like a class in configs, as ModelFromPackage is
    model: torch.nn.Module | Mapping[str, Any], new_types: Mapping[str, str]
) -> Any:
    """Return a model that knows further types, which stand behind those that it knows.

    A new type starts with everything that a known type has: its row of the type embedding, its
    scale and shift, its number of neighbours, its cutoffs. So an atom of the new type has at first
    the energy of one of the known type, and frames without new types have the energies that they
    had. In a config::

        _target_: nequip_model.new_types.ModelWithNewTypes
        new_types: {Pt: Au}
        model:
          _target_: nequip.model.ModelFromPackage
          package_path: alloy.nequip.zip

    Args:
        model: a model, a ``ModuleDict`` of models by name, or the config of either.
        new_types: name of a new type -> name of the known type to start from.

    Raises:
        ConfigError: a new type is known already, a known one is not; or the model does not say how
            it was built, so that it cannot be built anew.
    """
    built: Any = instantiate(model) if isinstance(model, Mapping) else model
    if not isinstance(built, torch.nn.ModuleDict):
        return _extended(built, new_types)
    return torch.nn.ModuleDict({name: _extended(one, new_types) for name, one in built.items()})


def _extended(model: Any, new_types: Mapping[str, str]) -> torch.nn.Module:
    known = list(model.type_names)
    for new, like in new_types.items():
        if new in known:
            raise ConfigError(f"new_types: the model knows the type '{new}' already: {known}")
        if like not in known:
            raise ConfigError(
                f"new_types: '{new}' is to start from '{like}', which is not one of the model's "
                f"types {known}{closest(str(like), known)}"
            )
    try:
        description = describe(model)
    except ConfigError as error:
        raise ConfigError(
            f"new_types: {error}; of a package that NequIP made, 'nequip-package convert' makes "
            "one that has it"
        ) from error
    arguments = description["arguments"]
    extended = {key: _argument(key, value, known, new_types) for key, value in arguments.items()}
    extended["type_names"] = [*known, *new_types]
    modifiers = [
        {key: _argument(key, value, known, new_types) for key, value in entry.items()}
        for entry in description.get("modifiers") or ()
    ]
    mode = "compile" if getattr(model, "is_compile_graph_model", False) else "eager"
    description |= {"arguments": extended, "modifiers": modifiers}
    found = rebuild_described(description, mode)
    source = [*range(len(known)), *(known.index(like) for like in new_types.values())]
    _copy_weights(model, found, source)
    return found.train(model.training)


def _argument(key: str, value: Any, known: Sequence[str], new_types: Mapping[str, str]) -> Any:
    """Return an argument of a builder with values for the new types, where it has such by type."""
    if key == "chemical_species" and isinstance(value, list) and len(value) == len(known):
        return [*value, *(_symbol(new) for new in new_types)]
    if not isinstance(value, Mapping):
        return value
    found = {name: _argument(name, entry, known, new_types) for name, entry in value.items()}
    if set(value) <= set(known):
        found |= {new: found[like] for new, like in new_types.items() if like in found}
    return found


def _symbol(name: str) -> str:
    try:
        atomic_number(name)
    except ValueError as error:
        raise ConfigError(
            f"new_types: the model has a potential of the chemical elements, and '{name}' is none"
        ) from error
    return name


def _copy_weights(old: Any, new: torch.nn.Module, source: Sequence[int]) -> None:
    """Give a model the weights of one with fewer types.

    Args:
        old: with T types.
        new: with T' types.
        source: for each of the T' types the one of the T types that it starts from.
    """
    before, after = old.state_dict(), new.state_dict()
    if set(before) != set(after):
        different = sorted(set(before) ^ set(after))
        raise ConfigError(
            f"new_types: what is installed builds another model than this one: '{different[0]}' is "
            "only in one of them"
        )
    parameters = dict(old.named_parameters())
    count, total = len(old.type_names), len(source)
    filled = {}
    for name, value in before.items():
        wanted = after[name]
        filled[name] = _picked(name, value, wanted.shape, source, (count, total))
        if name not in parameters and filled[name].shape != value.shape:
            # A buffer that the arguments alone decide is right already: atomic numbers, say.
            known = _picked(name, wanted, value.shape, range(count), (total, count))
            if torch.equal(known, value):
                filled[name] = wanted
    new.load_state_dict(filled)


def _picked(
    name: str, value: torch.Tensor, shape: Sequence[int], types: Sequence[int], sizes: Sequence[int]
) -> torch.Tensor:
    """Return a tensor with rows, or rows of pairs, of these types along the axes that differ.

    Args:
        name: of the tensor, for messages.
        value: of a model with ``sizes[0]`` types.
        shape: the shape to arrive at, of a model with ``sizes[1]`` types.
        types: for each of the ``sizes[1]`` types the one of the ``sizes[0]``.
        sizes: see above.
    """
    rows = torch.as_tensor(list(types))
    pairs = (rows[:, None] * sizes[0] + rows[None, :]).flatten()
    found = value
    for axis, (old, new) in enumerate(zip(value.shape, shape, strict=True)):
        if old == new:
            continue
        if (old, new) == tuple(sizes):
            found = found.index_select(axis, rows)
        elif (old, new) == (sizes[0] ** 2, sizes[1] ** 2):
            found = found.index_select(axis, pairs)
        else:
            raise ConfigError(
                f"new_types: '{name}' has the shape {tuple(value.shape)} with {sizes[0]} types and "
                f"{tuple(shape)} with {sizes[1]}; how to extend it is not known"
            )
    return found
