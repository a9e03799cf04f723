"""Checks of a config before anything is loaded: sections, targets, arguments, model, loss.

Everything that can be wrong with a config alone is found here: the training module with its model,
loss, metrics and optimizer is built once for trial, with 1.0 for the statistics to come.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nequip_core.documented_names import canonical_name
from nequip_core.errors import ConfigError, closest
from nequip_core.instantiate import TARGET
from nequip_train.before_training import check_before_training
from nequip_train.construction import (
    SPECIAL_KEYS,
    accepted_arguments,
    argument_mistake,
    call,
    resolve_target,
)
from nequip_train.resolvers import STATISTICS_RESOLVER, register_statistics

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nequip_train.modules import NequIPLightningModule

__all__ = ["Plan", "check_config", "resolve", "training_module"]

SECTIONS = ("run", "data", "trainer", "training_module")
TOP_LEVEL_KEYS = (
    *SECTIONS,
    "ckpt_path",
    "force_restart",
    "global_options",
    "hydra",
    "run_folder",
)
STAGES = ("train", "val", "test")
# What must be in training_module, by stage.
_NEEDED = {"train": ("loss", "val_metrics", "optimizer"), "val": ("val_metrics",)}
_NEEDED["test"] = ("test_metrics",)
# Arguments that are given by the framework, by the key under which a config stands.
_GIVEN = {
    "trainer": ("inference_mode",),
    "training_module": ("num_datasets", "info_dict"),
    "stats_manager": (),
    "sampler": ("data_source",),
}
_LOADER = "torch.utils.data.DataLoader"
_MAPPER = canonical_name("nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper")
_NEIGHBORS = canonical_name("nequip.data.transforms.NeighborListTransform")


@dataclass(frozen=True)
class Plan:
    """What a config asks for, checked.

    Attributes:
        stages: train, val, test in the order to run.
        data: plain config of the data module.
        trainer: plain config of the trainer.
        checkpoint: path of the checkpoint to continue from, None for a fresh start.
        statistics: the names of the statistics that the config asks for.
    """

    stages: list[str]
    data: dict[str, Any]
    trainer: dict[str, Any]
    checkpoint: str | None
    statistics: list[str]


def check_config(config: DictConfig) -> Plan:
    """Return what a config asks for.

    Args:
        config: the whole config as Hydra composed it.

    Raises:
        ConfigError: something is wrong; the message has the key path.
        MissingFileError: the checkpoint to continue from does not exist.
    """
    _check_top_level([str(key) for key in config])
    stages = _stages(resolve(config, "run"))
    checkpoint = resolve(config, "ckpt_path") if "ckpt_path" in config else None
    data = _section(config, "data")
    trainer = _section(config, "trainer")
    if "inference_mode" in trainer:
        raise ConfigError(
            "trainer.inference_mode: forces need autograd, so it is always off; remove the key"
        )
    check_targets(data, "data")
    check_targets(trainer, "trainer")
    asked: list[str] = []
    if checkpoint is None:
        asked = register_statistics(None)
        module_config = _section(config, "training_module")
        module = _check_training_module(module_config, stages)
        _check_data_fits_model(data, module_config["model"], module)
        if asked and data.get("stats_manager") is None:
            raise ConfigError(
                f"${{{STATISTICS_RESOLVER}:{asked[0]}}} is used, but data.stats_manager is "
                "missing; add e.g. one of nequip.data.CommonDataStatisticsManager"
            )
    return Plan(stages, data, trainer, checkpoint, asked)


def _check_top_level(keys: Sequence[str]) -> None:
    for key in keys:
        if key in TOP_LEVEL_KEYS:
            continue
        # Other keys are free variables; one that is all but a documented key is a misspelling.
        for near in difflib.get_close_matches(key, TOP_LEVEL_KEYS, n=1, cutoff=0.8):
            likeness = difflib.SequenceMatcher(None, key, near).ratio()
            if near not in keys or likeness > 0.9:
                raise ConfigError(f"unknown top-level key '{key}'; did you mean '{near}'?")
    for section in SECTIONS:
        if section not in keys:
            raise ConfigError(
                f"the config has no '{section}', it needs {', '.join(SECTIONS)} "
                f"(found: {', '.join(keys) or 'nothing'})"
            )


def _stages(value: Any) -> list[str]:
    stages = list(value) if isinstance(value, list) else [value]
    if not stages or value is None:
        raise ConfigError(f"run: must name at least one of {', '.join(STAGES)}")
    for stage in stages:
        if stage not in STAGES:
            near = closest(str(stage), STAGES)
            raise ConfigError(f"run: '{stage}' is not one of {', '.join(STAGES)}{near}")
    if stages.count("train") > 1:
        raise ConfigError(f"run: 'train' can be there only once, got {stages}")
    return stages


def resolve(config: DictConfig, key: str) -> Any:
    """Return a part of the config as plain containers, every interpolation replaced.

    Raises:
        ConfigError: an interpolation fails, or a value is missing (``???``).
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        value = config[key]
        if OmegaConf.is_config(value):
            return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        return value
    except OmegaConfBaseException as error:
        text = re.sub(
            r"^\w+ raised while resolving interpolation: ", "", str(error).splitlines()[0]
        )
        raise ConfigError(f"{error.full_key or key}: {text}") from error


def _section(config: DictConfig, key: str) -> dict[str, Any]:
    section = resolve(config, key)
    if not isinstance(section, dict):
        raise ConfigError(f"{key}: must be a mapping, got {section!r}")
    if not isinstance(section.get(TARGET), str):
        raise ConfigError(f"{key}: needs '{TARGET}', the class to build")
    return section


def check_targets(config: Any, where: str) -> None:
    """Check that every target of a plain config exists and takes the arguments it is given.

    Raises:
        ConfigError: it does not; the message has the key path.
    """
    if isinstance(config, list):
        for index, item in enumerate(config):
            check_targets(item, f"{where}[{index}]")
    if not isinstance(config, Mapping):
        return
    key = where.rpartition(".")[2]
    is_loader = where.startswith("data.") and key.endswith("_dataloader")
    if TARGET in config or is_loader:
        target = resolve_target({TARGET: _LOADER, **config}, where)
        given = [name for name in config if name not in SPECIAL_KEYS]
        injected = [name for name in _GIVEN.get(key, ()) if name not in given]
        taken = accepted_arguments(target)[0] if key == "sampler" else injected
        given += [name for name in injected if name in taken]
        given += ["dataset"] if is_loader and "dataset" not in given else []
        if not config.get("_args_"):
            partial = bool(config.get("_partial_", False))
            mistake = argument_mistake(target, given, where, check_missing=not partial)
            if mistake:
                raise ConfigError(mistake)
    for name, value in config.items():
        check_targets(value, f"{where}.{name}")


def training_module(
    config: Mapping[str, Any], num_datasets: Mapping[str, int], info: Mapping[str, Any]
) -> NequIPLightningModule:
    """Return the training module of a resolved config.

    Raises:
        ConfigError: the config is wrong.
    """
    from nequip_train.modules import NequIPLightningModule

    where = "training_module"
    target = resolve_target(config, where)
    if not (isinstance(target, type) and issubclass(target, NequIPLightningModule)):
        raise ConfigError(
            f"{where}.{TARGET}: must be nequip.train.NequIPLightningModule or derived from it, "
            f"got '{config[TARGET]}'"
        )
    arguments = {key: value for key, value in config.items() if key not in SPECIAL_KEYS}
    arguments |= {"num_datasets": dict(num_datasets), "info_dict": dict(info)}
    return call(target, arguments, where)


def _check_training_module(
    config: Mapping[str, Any], stages: Sequence[str]
) -> NequIPLightningModule:
    """Return the training module, built for trial."""
    if not isinstance(config.get("model"), Mapping) or TARGET not in config["model"]:
        raise ConfigError(f"training_module.model: needs a mapping with '{TARGET}'")
    for stage in stages:
        for key in _NEEDED[stage]:
            if config.get(key) is None:
                names = [name for name in config if name not in ("model", TARGET)]
                raise ConfigError(
                    f"training_module.{key}: is needed to run '{stage}'{closest(key, names)}"
                )
    resolve_target(config["model"], "training_module.model")
    module = training_module(config, {"train": 1, "val": 1, "test": 1}, {})
    if "train" in stages:
        module.configure_optimizers()
        check_before_training(module.model)
    return module


def _check_data_fits_model(
    data: Mapping[str, Any], model: Mapping[str, Any], module: NequIPLightningModule
) -> None:
    """Compare types and cutoff of the data's transforms with the model's."""
    # A model that starts from a file has neither in its config.
    built: Any = next(iter(module.model.values()))
    names = model.get("type_names", module.type_names)
    r_max: Any = model.get("r_max", float(built.metadata["r_max"]))
    for where, config in _targets(data, "data"):
        target = canonical_name(str(config[TARGET]))
        given = config.get("model_type_names")
        if target == _MAPPER and given and names and list(given) != list(names):
            raise ConfigError(
                f"{where}.model_type_names: {list(given)} differs from "
                f"training_module.model.type_names {list(names)}; atom types would be mixed up"
            )
        cutoff: Any = config.get("r_max")
        numbers = isinstance(cutoff, int | float) and isinstance(r_max, int | float)
        if target == _NEIGHBORS and numbers and cutoff < r_max:
            raise ConfigError(
                f"{where}.r_max: {cutoff} is shorter than training_module.model.r_max {r_max}; "
                "the model would miss neighbours"
            )


def _targets(config: Any, where: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return every mapping with a target, with its key path."""
    if isinstance(config, list):
        items = [(f"{where}[{index}]", item) for index, item in enumerate(config)]
    elif isinstance(config, Mapping):
        items = [(f"{where}.{key}", value) for key, value in config.items()]
    else:
        return []
    own = [(where, config)] if isinstance(config, Mapping) and TARGET in config else []
    return own + [found for path, item in items for found in _targets(item, path)]
