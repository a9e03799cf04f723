"""The values of a composed config, with every interpolation that fails as a mistake."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from nequip_core.errors import closest
from nequip_train.checking.mistakes import KeyPath
from nequip_train.checking.values import UNKNOWN
from nequip_train.resolvers import resolver_names

__all__ = ["Resolution", "resolution_of"]

_KEY = re.compile(r"Interpolation key '([^']+)'")
_TYPE = re.compile(r"Unsupported interpolation type (\S+)")
_PREFIX = re.compile(r"^\w+ raised while resolving interpolation: ")
_MAX_DEPTH = 60


@dataclass
class Resolution:
    """A resolved config.

    Attributes:
        values: plain containers; `UNKNOWN` stands for what could not be resolved.
        failures: path and text of every interpolation that failed.
        lacks_resolver: whether one failed because its resolver is not registered.
    """

    values: dict[str, Any] = field(default_factory=dict)
    failures: list[tuple[KeyPath, str]] = field(default_factory=list)
    lacks_resolver: bool = False


def resolution_of(config: DictConfig, keys: Sequence[str]) -> Resolution:
    """Return the values below some top-level keys; those that are not there are left out."""
    resolution = Resolution()
    for key in keys:
        if key in config:
            resolution.values[key] = _resolved(config, key, (key,), config, resolution)
    return resolution


def _resolved(
    container: Any, key: Any, path: KeyPath, config: DictConfig, resolution: Resolution
) -> Any:
    """Return one value of a container."""
    try:
        value = container[key]
        if isinstance(value, DictConfig):
            if len(path) > _MAX_DEPTH:
                raise RecursionError
            names: list[Any] = list(value)
            return {
                name: _resolved(value, name, (*path, name), config, resolution) for name in names
            }
        if isinstance(value, ListConfig):
            count = range(len(value))
            return [_resolved(value, i, (*path, i), config, resolution) for i in count]
    except MissingMandatoryValue:
        _fail(resolution, path, "has the value ???, which says that one has to be given")
    except UnsupportedInterpolationType as error:
        match = _TYPE.search(str(error))
        name = match[1] if match else ""
        resolution.lacks_resolver = True
        near = closest(name, resolver_names())
        _fail(resolution, path, f"there is no resolver '{name}'{near}")
    except InterpolationKeyError as error:
        _fail(resolution, path, _missing_key(str(error), config))
    except RecursionError:
        _fail(resolution, path, "refers to itself")
    except OmegaConfBaseException as error:
        # A KeyError's text is in quotes.
        _fail(resolution, path, _PREFIX.sub("", str(error).splitlines()[0]).strip('"'))
    else:
        return value
    return UNKNOWN


def _fail(resolution: Resolution, path: KeyPath, text: str) -> None:
    resolution.failures.append((path, text))


def _missing_key(message: str, config: DictConfig) -> str:
    match = _KEY.search(message)
    if not match:
        return message.splitlines()[0]
    parent, _, name = match[1].rpartition(".")
    try:
        owner = OmegaConf.select(config, parent) if parent else config
        known = [str(key) for key in owner] if isinstance(owner, DictConfig) else []
    except OmegaConfBaseException:
        known = []
    near = closest(name, known)
    if near and parent:
        near = near.replace("did you mean '", f"did you mean '{parent}.")
    return f"refers to '{match[1]}', which is not in the config{near}"
