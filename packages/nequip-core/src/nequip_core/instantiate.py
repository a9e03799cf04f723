"""Build objects from plain configs: a mapping with `_target_` and keyword arguments."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from nequip_core.documented_names import DOCUMENTED_NAMES, canonical_name
from nequip_core.errors import ConfigError, closest

__all__ = ["import_object", "instantiate"]

TARGET = "_target_"


def import_object(path: str) -> Any:
    """Return the object that a dotted path names, e.g. ``torch.optim.Adam``.

    A documented ``nequip.*`` name means this project's object, whatever else is installed under
    the name ``nequip``.

    Args:
        path: dotted path as it stands in a config.

    Raises:
        ConfigError: nothing is found under the path; the message says which part is missing.
    """
    if not isinstance(path, str) or not path or any(not part for part in path.split(".")):
        raise ConfigError(f"{TARGET} must be a dotted path such as torch.optim.Adam, got {path!r}")
    canonical = canonical_name(path)
    if canonical == path and path.split(".")[0] == "nequip":
        raise ConfigError(
            f"'{path}' is not a documented name of this version"
            f"{closest(path, list(DOCUMENTED_NAMES))}"
        )
    parts = canonical.split(".")
    for split in range(len(parts), 0, -1):
        module_name = ".".join(parts[:split])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # Only the module we asked for may be missing; a missing import inside it is a failure.
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise ConfigError(
                    f"'{path}' does not import: {module_name} needs {error.name}, "
                    "which is not installed"
                ) from error
            continue
        for depth, part in enumerate(parts[split:]):
            if not hasattr(found, part):
                parent = ".".join(parts[: split + depth])
                raise ConfigError(
                    f"'{path}' does not exist: {parent} has no '{part}'"
                    f"{closest(part, [n for n in dir(found) if not n.startswith('_')])}"
                )
            found = getattr(found, part)
        return found
    raise ConfigError(f"'{path}' does not exist: there is no module '{parts[0]}' installed")


def instantiate(config: Mapping[str, Any], /, **overrides: Any) -> Any:
    """Call what ``config['_target_']`` names with the other entries as keyword arguments.

    Nested configs are passed on as they are: the callee decides what to build of them.

    Args:
        config: a plain mapping with a ``_target_``.
        **overrides: keyword arguments that replace or join those of the config.

    Raises:
        ConfigError: there is no ``_target_``, or it names nothing.
    """
    if not isinstance(config, Mapping) or TARGET not in config:
        raise ConfigError(f"expected a mapping with {TARGET}, got {config!r}")
    arguments = {key: value for key, value in config.items() if key != TARGET}
    return import_object(config[TARGET])(**{**arguments, **overrides})
