"""The model section of a config of ``nequip`` 0.10 to 0.19, as arguments of our builders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nequip_core.archive.permitted import is_permitted_path
from nequip_core.errors import ConfigError, FileFormatError
from nequip_core.instantiate import import_object
from nequip_model.reference_extension import build_extension_model, require_extension_builder

__all__ = ["ModelSection", "build_model", "parse_model_section"]

# Name in `nequip.model` -> our builder, and the arguments that the name itself stands for. Up to
# 0.15 networks without derivatives had builders of their own.
_BUILDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "NequIPGNNModel": ("nequip_model.gnn.NequIPGNNModel", {}),
    "NequIPGNNEnergyModel": ("nequip_model.gnn.NequIPGNNModel", {"do_derivatives": False}),
    "FullNequIPGNNModel": ("nequip_model.gnn.FullNequIPGNNModel", {}),
    "FullNequIPGNNEnergyModel": ("nequip_model.gnn.FullNequIPGNNModel", {"do_derivatives": False}),
    "PresetNequIPGNNModel": ("nequip_model.presets.PresetNequIPGNNModel", {}),
    "ZBLPairPotential": ("nequip_model.pair_potentials.ZBLPairPotential", {}),
}
_SOURCES = {"ModelFromPackage": "package_path", "ModelFromCheckpoint": "checkpoint_path"}
# They change how a model computes, not what, and need libraries of their own.
_ACCELERATIONS = ("enable_OpenEquivariance", "enable_CuEquivariance")
_RADIAL_WEIGHT = re.compile(r"layer0_convnet\.conv\.edge_mlp\.mlp\.(?:weights\.)?\d+(\.weight)?$")


@dataclass(frozen=True)
class ModelSection:
    """What a config says about a model.

    Attributes:
        builder: name in ``nequip.model``, or the dotted path of an extension package's builder;
            empty if the model comes from another file.
        arguments: of that builder.
        source: path of the file that the training started from, as written, or None.
        modifiers: persistent modifiers with their arguments, in the order of application.
    """

    builder: str
    arguments: dict[str, Any]
    source: str | None
    modifiers: tuple[dict[str, Any], ...]


def parse_model_section(config: Mapping[str, Any]) -> ModelSection:
    """Return what the ``model`` section of a config says.

    Raises:
        ConfigError: its target is none of ``nequip.model`` that an import knows, nor lies in an
            installed extension package.
        FileFormatError: it lies in one, and is no builder, or its arguments name what they may not.
    """
    target = str(config.get("_target_", ""))
    parent, _, name = target.rpartition(".")
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    if parent.split(".")[0] == "nequip":
        if name == "modify":
            return _modified(arguments)
        if name in _SOURCES and _SOURCES[name] in arguments:
            return ModelSection("", {}, str(arguments[_SOURCES[name]]), ())
        if name in _BUILDERS:
            return ModelSection(name, arguments, None, ())
    elif is_permitted_path(target):
        arguments.pop("compile_mode", None)
        require_extension_builder(target, arguments)
        return ModelSection(target, arguments, None, ())
    raise ConfigError(
        f"the model was built by '{target or 'nothing'}', which an import does not know; it knows "
        f"{', '.join([*_BUILDERS, 'modify', *_SOURCES])} of nequip.model, and builders of "
        "installed extension packages"
    )


def _modified(arguments: dict[str, Any]) -> ModelSection:
    inner = parse_model_section(arguments["model"])
    modifiers = arguments["modifiers"]
    if not isinstance(modifiers, list):
        raise ConfigError(
            "modifiers given by model name belong to a file of several models, which cannot be "
            "imported"
        )
    persistent = [dict(entry) for entry in modifiers if entry["modifier"] not in _ACCELERATIONS]
    together = (*inner.modifiers, *persistent)
    return ModelSection(inner.builder, inner.arguments, inner.source, together)


def build_model(
    section: ModelSection, state: Mapping[str, torch.Tensor], version: str | None = None
) -> Any:
    """Return our model of a section, with the modifiers applied; its weights are of its seed.

    Args:
        section: with a builder, not with a source.
        state: the reference's state dict, which decides what the section leaves to the defaults of
            the version that read it.
        version: of the ``nequip`` that trained it; needed for networks with a pair potential.

    Raises:
        ConfigError: an argument is not known here, or a modifier.
        FileFormatError: `state` has no radial network.
    """
    if "." in section.builder:
        path, arguments = section.builder, dict(section.arguments)
    else:
        path, implied = _BUILDERS[section.builder]
        arguments = {**section.arguments, **implied}
    arguments.pop("compile_mode", None)
    if section.builder.startswith("NequIP"):
        depth, width = _radial_shape(state)
        arguments.setdefault("radial_mlp_depth", depth)
        arguments.setdefault("radial_mlp_width", width)
        if _is_before_0_16(state):
            path = _BUILDERS["FullNequIPGNNModel"][0]
            arguments = _by_layer(arguments)
    if "NequIP" in section.builder and arguments.get("avg_num_neighbors") is None:
        arguments["avg_num_neighbors"] = 1.0  # up to 0.15: no normalisation
    if arguments.get("pair_potential") is not None:
        in_extension = "." in section.builder
        arguments["pair_potential"] = _pair_potential(arguments, version, in_extension)
    for key in ("per_type_energy_scales", "per_type_energy_shifts"):
        if isinstance(arguments.get(key), list):
            arguments[key] = dict(zip(arguments["type_names"], arguments[key], strict=True))
    if "." in section.builder:
        model = build_extension_model(path, arguments)
    else:
        model = import_object(path)(**arguments)
    if section.modifiers:
        model = _modify(model, section.modifiers)
    return model


def _modify(model: Any, modifiers: tuple[dict[str, Any], ...]) -> Any:
    try:
        modify = import_object("nequip_model.modify.modify")
    except ConfigError as error:
        names = [entry["modifier"] for entry in modifiers]
        raise ConfigError(
            f"the model has the modifiers {names}, which this nequip-model does not have"
        ) from error
    return modify(model, list(modifiers))


def _pair_potential(
    arguments: Mapping[str, Any], version: str | None, builder_of_extension: bool
) -> dict[str, Any]:
    """Return the config of the pair potential: up to 0.16 it used the network's envelope."""
    config = dict(arguments["pair_potential"])
    numbers = re.match(r"(\d+)\.(\d+)", version or "")
    if numbers is None:
        raise ConfigError(
            "the network has a pair potential, and the file does not say which version of nequip "
            "trained it; the envelope of the potential depends on it"
        )
    if tuple(int(number) for number in numbers.groups()) < (0, 17):
        if builder_of_extension:
            raise ConfigError(
                "the pair potential of a network of an extension package, made by nequip "
                f"{version}, uses the network's envelope: it can be imported from 0.17 on"
            )
        config["polynomial_cutoff_p"] = arguments.get("polynomial_cutoff_p", 6)
    return config


def _is_before_0_16(state: Mapping[str, torch.Tensor]) -> bool:
    """Return whether the type embedding comes after the edge embedding, as up to 0.15."""
    keys = list(state)
    places = [
        next((i for i, key in enumerate(keys) if name in key), 0)
        for name in (".edge_norm.", ".type_embed.")
    ]
    return places[0] < places[1]


def _by_layer(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `FullNequIPGNNModel` that ``NequIPGNNModel`` stood for up to 0.15.

    The hidden features were all even irreps and then all odd ones; since 0.16 they are sorted by
    degree. Without ``parity`` the harmonics were even as well, so that these networks are not
    equivariant to inversion; since 0.16 the features then have the parity of the harmonics.
    """
    rest = dict(arguments)
    parities = "eo" if rest.pop("parity", True) else "e"
    layers, l_max = int(rest.pop("num_layers", 4)), int(rest.pop("l_max", 1))
    channels = int(rest.pop("num_features", 32))
    hidden = "+".join(f"{channels}x{l}{p}" for p in parities for l in range(l_max + 1))
    even = "+".join(f"1x{l}e" for l in range(l_max + 1))
    rest.setdefault("type_embed_num_features", channels)
    return {
        **rest,
        "irreps_edge_sh": l_max if parities == "eo" else even,
        "feature_irreps_hidden": [hidden] * (layers - 1) + [f"{channels}x0e"],
        "radial_mlp_depth": [rest["radial_mlp_depth"]] * layers,
        "radial_mlp_width": [rest["radial_mlp_width"]] * layers,
    }


def _radial_shape(state: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Return depth and width of the radial networks: their defaults changed with 0.17."""
    shapes = [value.shape for key, value in state.items() if _RADIAL_WEIGHT.search(key)]
    if not shapes:
        raise FileFormatError("the reference network has no weights of a radial network")
    return len(shapes) - 1, (shapes[0][1] if len(shapes) > 1 else 1)
