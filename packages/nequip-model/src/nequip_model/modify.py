"""Models with modifiers, from configs and in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.errors import ConfigError, closest
from nequip_core.instantiate import instantiate
from nequip_core.modifiers import apply_modifiers
from nequip_core.saved_model import SOLE_MODEL

__all__ = ["modify"]


def modify(
    model: torch.nn.Module | Mapping[str, Any],
    modifiers: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Mapping[str, Any]]],
) -> Any:
    """Return the model with modifiers applied in order.

    In a config::

        _target_: nequip.model.modify
        modifiers:
          - modifier: modify_PerTypeScaleShift
            shifts: {H: -13.6}
        model:
          _target_: nequip.model.NequIPGNNModel
          ...

    Accelerations are skipped while `nequip_core.modifiers.only_apply_persistent_modifiers` is on.

    Args:
        model: a model, a ``ModuleDict`` of models by name, or the config of either.
        modifiers: for each modifier a mapping with its name as ``modifier`` and its arguments; or
            such lists by model name. A list is applied to every model of a ``ModuleDict``.

    Raises:
        ConfigError: a modifier, an argument or a model name is unknown or wrong.
        MissingDependencyError: a library that a modifier uses is not installed.
    """
    built: Any = instantiate(model) if isinstance(model, Mapping) else model
    if not isinstance(built, torch.nn.Module):
        raise ConfigError(f"'model' must be a model or the config of one, got {built!r}")
    collection = built if isinstance(built, torch.nn.ModuleDict) else None
    models: dict[str, Any] = {SOLE_MODEL: built} if collection is None else dict(collection.items())
    if not isinstance(modifiers, Mapping):
        modifiers = dict.fromkeys(models, modifiers)
    for name, listed in modifiers.items():
        if name not in models:
            raise ConfigError(
                f"modifiers are given for a model '{name}', there is only {list(models)}"
                f"{closest(name, list(models))}"
            )
        models[name] = apply_modifiers(models[name], listed)
    if collection is None:
        return models[SOLE_MODEL]
    collection.update(models)
    return collection
