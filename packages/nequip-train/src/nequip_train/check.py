"""Checks of a config before data are read: what it asks for, and a trial of its training module.

What can be seen without importing anything was checked before, see `nequip_train.checking.static`.
Here the training module with its model, loss, metrics and optimizer is built once for trial, with
1.0 for the statistics to come.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nequip_core.documented_names import canonical_name
from nequip_core.errors import ConfigError
from nequip_core.instantiate import TARGET
from nequip_train.before_training import check_before_training
from nequip_train.construction import SPECIAL_KEYS, call, resolve_target
from nequip_train.resolvers import register_statistics
from nequip_train.run_folder.options import RunFolderOptions, run_folder_options

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nequip_train.checking.labels import Need
    from nequip_train.modules import NequIPLightningModule

__all__ = [
    "NEEDED",
    "SECTIONS",
    "STAGES",
    "TOP_LEVEL_KEYS",
    "Plan",
    "check_config",
    "resolve",
    "training_module",
]

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
NEEDED = {
    "train": ("loss", "val_metrics", "optimizer"),
    "val": ("val_metrics",),
    "test": ("test_metrics",),
}
"""What must be in training_module, by stage."""
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
        needs: the labels that loss and metrics compare with; none where they are a checkpoint's.
        run_folder: what the run adds to its folder without being asked.
    """

    stages: list[str]
    data: dict[str, Any]
    trainer: dict[str, Any]
    checkpoint: str | None
    statistics: list[str]
    needs: list[Need] = field(default_factory=list)
    run_folder: RunFolderOptions = field(default_factory=RunFolderOptions)


def check_config(config: DictConfig) -> Plan:
    """Return what a config asks for.

    Args:
        config: the whole config as Hydra composed it, without mistakes of the kind that
            `nequip_train.checking.static` finds.

    Raises:
        ConfigError: something is wrong; the message has the key path.
        MissingFileError: the checkpoint to continue from does not exist.
    """
    run = resolve(config, "run")
    stages = [str(stage) for stage in run] if isinstance(run, list) else [str(run)]
    checkpoint = resolve(config, "ckpt_path") if "ckpt_path" in config else None
    data = _section(config, "data")
    trainer = _section(config, "trainer")
    options = run_folder_options(resolve(config, "run_folder") if "run_folder" in config else None)
    asked: list[str] = []
    needs: list[Need] = []
    if checkpoint is None:
        asked = register_statistics(None)
        module_config = _section(config, "training_module")
        module = _check_training_module(module_config, stages)
        _check_data_fits_model(data, module_config["model"], module)
        from nequip_train.checking.labels import needs_of

        needs = needs_of(module)
    return Plan(stages, data, trainer, checkpoint, asked, needs, options)


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
