"""Descriptions of models: which builder, which version of it, which arguments; plain JSON.

A `GraphModel` carries the description of its own construction in the attribute ``description``:

| key | |
|---|---|
| ``architecture`` | name in the entry-point group ``nequip.architectures``, or a builder's dotted path |
| ``version`` | integer version of the registered architecture; null for a dotted path |
| ``arguments`` | every argument of the builder, defaults included, ``seed`` and dtype among them |
| ``modifiers`` | the modifiers applied since, in order, each with its arguments |

`build_described` makes the same model of it: the same modules and, before training, the same
weights. Trained weights are not part of it; they are loaded from the state dict.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nequip_core.errors import ConfigError, PluginError
from nequip_core.instantiate import import_object
from nequip_core.plugins import ARCHITECTURES, load_plugin
from nequip_model.compile_modes import override_model_compile_mode
from nequip_model.nn.graph_model import GraphModel

__all__ = ["build_described", "describe", "rebuild_described"]


def describe(model: GraphModel) -> dict[str, Any]:
    """Return the description of `model`, see the module's text.

    Args:
        model: a graph model, from a builder or loaded from a file.

    Raises:
        ConfigError: the model has no description: its builder was given objects, not plain data,
            or its file was written before there were descriptions.
    """
    description: dict[str, Any] | None = getattr(model, "description", None)
    if description is None:
        raise ConfigError(
            "this model has no description: it was built from arguments that are not plain data "
            "(numbers, text, lists, mappings), or by a version that did not describe models; "
            "build it from a config to get one"
        )
    return description


def build_described(description: Mapping[str, Any]) -> GraphModel:
    """Return the model that a description states, with the weights of its seed.

    Args:
        description: as `describe` returns it, possibly read from JSON.

    Raises:
        ConfigError: a key is missing, or the architecture is of a version that is not installed.
        PluginError: the architecture is not installed.
    """
    lacking = [key for key in ("architecture", "arguments") if key not in description]
    if lacking:
        raise ConfigError(f"the description of a model lacks {lacking}, it has {list(description)}")
    name, version = str(description["architecture"]), description.get("version")
    builder = _builder(name, version)
    installed = getattr(builder, "architecture_version", None)
    if installed != version:
        raise ConfigError(
            f"the model is of version {version} of the architecture '{name}', version {installed} "
            f"is installed; install the release of its distribution that has version {version}"
        )
    model: GraphModel = builder(**description["arguments"])
    if description.get("modifiers"):
        from nequip_model.modify import modify

        modify(model, description["modifiers"])
    return model


def rebuild_described(description: Mapping[str, Any], compile_mode: str = "eager") -> GraphModel:
    """Return `build_described` of a package's description, in a compile mode.

    Args:
        description: checked by `nequip_core.archive.permitted.check_description`.
        compile_mode: ``eager`` or ``compile``.

    Raises:
        ConfigError: see `build_described`; or there is no such compile mode.
        PluginError: see `build_described`.
    """
    with override_model_compile_mode(compile_mode):
        return build_described(description)


def _builder(name: str, version: int | None) -> Any:
    if version is None:
        builder = import_object(name)
        if not hasattr(builder, "architecture_name"):
            raise ConfigError(f"'{name}' is not a model builder, see nequip_model.model_builder")
        return builder
    try:
        return load_plugin(ARCHITECTURES, name, "install the distribution that provides it")
    except PluginError as error:
        raise PluginError(f"cannot build the described model: {error}") from error
