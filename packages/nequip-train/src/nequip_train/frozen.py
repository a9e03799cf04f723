"""Parts of a model that a training leaves as they are."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import torch

from nequip_core.errors import ConfigError, closest

__all__ = ["freeze"]


def freeze(model: torch.nn.Module, parts: Sequence[str]) -> list[str]:
    """Freeze parameters in place, and return their names.

    Args:
        model: the model, or models, to train.
        parts: names of modules or parameters: one or more consecutive parts of a dotted name, in
            which ``*`` and ``?`` stand for any characters, e.g. ``type_embedding``,
            ``layer[01]``, ``layer*.radial``.

    Raises:
        ConfigError: a name fits nothing, or nothing would be left to train.
    """
    listed = [parts] if isinstance(parts, str) else list(parts)
    names = [name for name, _ in model.named_parameters()]
    frozen: set[str] = set()
    for part in listed:
        found = [name for name in names if _names(str(part), name)]
        if not found:
            words = sorted({word for name in names for word in name.split(".")})
            raise ConfigError(
                f"frozen: the model has no part '{part}'{closest(str(part), words)} (it has "
                f"{', '.join(words)})"
            )
        frozen.update(found)
    if names and frozen == set(names):
        raise ConfigError(f"frozen: nothing is left to train with {listed}")
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return [name for name in names if name in frozen]


def _names(pattern: str, name: str) -> bool:
    """Return whether consecutive parts of a name fit a pattern."""
    wanted, parts = pattern.split("."), name.split(".")
    return any(
        all(
            fnmatch.fnmatchcase(part, want)
            for part, want in zip(parts[start : start + len(wanted)], wanted, strict=True)
        )
        for start in range(len(parts) - len(wanted) + 1)
    )
