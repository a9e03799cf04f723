"""One training run from a composed config: data, statistics, trainer, module, then every stage."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_core.distributions import installed_versions
from nequip_core.errors import ConfigError, closest
from nequip_core.instantiate import TARGET
from nequip_core.plugins import import_extensions
from nequip_train.before_training import check_before_training
from nequip_train.check import Plan, check_config, resolve, training_module
from nequip_train.checking.labels import Need, check_labels, managers_of, needs_of
from nequip_train.construction import SPECIAL_KEYS, build, call, resolve_target
from nequip_train.data.loaders import errors_of_workers
from nequip_train.metrics_table import print_metrics
from nequip_train.resolvers import register_resolvers, register_statistics
from nequip_train.restart.resume import set_aside_newer
from nequip_train.restart.same_run import check_same_run, remember_config

if TYPE_CHECKING:
    import lightning
    from omegaconf import DictConfig

    from nequip_train.data.datamodules import NequIPDataModule
    from nequip_train.modules import NequIPLightningModule
    from nequip_train.run_folder.session import RunSession

__all__ = ["run"]

_LOG = logging.getLogger(__name__)
_LAYERS = ("nequip-core", "nequip-model", "nequip-train", "torch", "e3nn", "lightning")
_LOGGED_BY_US = re.compile(r"(train_(loss|metric)|val\d+|test\d+)_(step|epoch)/")


def run(config: DictConfig) -> None:
    """Do everything that a config asks for.

    Args:
        config: the whole config as Hydra composed it.

    Raises:
        NequIPError: the config, the data or the checkpoint are wrong.
    """
    register_resolvers()
    extensions = import_extensions()
    plan = check_config(config)
    checkpoint = _checkpoint(plan)
    if checkpoint is not None:
        check_same_run(config, plan, checkpoint)
    datamodule = _datamodule(plan)
    trainer = _trainer(plan.trainer)
    info = {
        "versions": _versions(extensions),
        "data": plan.data,
        "units": datamodule.units,
        "trainer": plan.trainer,
        "runs": plan.stages,
    }
    first = 0
    if checkpoint is None:
        _check_labels(datamodule, plan.needs, plan.stages)
        module = _fresh_module(config, plan, datamodule, info)
    else:
        module = _restored_module(checkpoint, datamodule, info, plan.checkpoint, _consent(config))
        first = int(checkpoint["state_dict"]["run_stage"])
        if "train" in plan.stages[first:]:
            check_before_training(module.model)
        _check_labels(datamodule, needs_of(module), plan.stages)
        _LOG.info("continuing from %s; training_module is that of the checkpoint", plan.checkpoint)
    _check_monitors(trainer, module)
    with _session(config, plan, trainer, module, checkpoint) as session:
        _run_stages(plan, first, trainer, module, datamodule, session)


@contextlib.contextmanager
def _session(
    config: DictConfig,
    plan: Plan,
    trainer: lightning.Trainer,
    module: NequIPLightningModule,
    checkpoint: dict[str, Any] | None,
) -> Iterator[RunSession]:
    """Surround the stages with what is written about them."""
    from hydra.core.hydra_config import HydraConfig

    from nequip_train.run_folder.session import RunSession

    folder = Path(HydraConfig.get().runtime.output_dir)
    if trainer.is_global_zero:
        remember_config(config, folder)
        if plan.checkpoint is not None and Path(plan.checkpoint).resolve().parent == folder:
            own = [getattr(item, "dirpath", None) for item in trainer.checkpoint_callbacks]
            set_aside_newer(Path(plan.checkpoint), folder, [Path(item) for item in own if item])
    session = RunSession(folder, plan.run_folder, trainer, _has_own_bar(plan.trainer))
    info = dict(module.hparams["info_dict"])
    session.start(module, plan, info, checkpoint)
    with session.ending():
        yield session


def _has_own_bar(trainer: Mapping[str, Any]) -> bool:
    """Tell whether the config names a progress bar."""
    callbacks = trainer.get("callbacks") or []
    listed = callbacks if isinstance(callbacks, list) else [callbacks]
    return any("ProgressBar" in str(item.get(TARGET)) for item in listed if isinstance(item, dict))


def _checkpoint(plan: Plan) -> dict[str, Any] | None:
    """Return the content of the checkpoint to continue from.

    Raises:
        ConfigError: the checkpoint is of a run with other stages.
    """
    if plan.checkpoint is None:
        return None
    from nequip_model.checkpoint import read_checkpoint

    content = read_checkpoint(plan.checkpoint)
    info = content["hyper_parameters"].get("info_dict") or {}
    before = list(info.get("runs") or [])
    if not before or plan.stages[: len(before)] != before:
        raise ConfigError(
            f"run: {plan.stages} must begin with the stages of the checkpoint, {before}"
        )
    if TARGET not in (info.get("training_module") or {}):
        raise ConfigError(
            f"ckpt_path: '{plan.checkpoint}' does not say of which training module it is"
        )
    return content


def _datamodule(plan: Plan) -> NequIPDataModule:
    from nequip_train.data.datamodules import NequIPDataModule

    arguments = {key: value for key, value in plan.data.items() if key not in SPECIAL_KEYS}
    datamodule = call(resolve_target(plan.data, "data"), arguments, "data")
    if not isinstance(datamodule, NequIPDataModule):
        raise ConfigError(
            f"data.{TARGET}: must be nequip.data.datamodule.NequIPDataModule or derived from it, "
            f"got '{plan.data[TARGET]}'"
        )
    if "train" in plan.stages and datamodule.num_datasets["train"] != 1:
        raise ConfigError(
            f"data: exactly one training set is needed, got {datamodule.num_datasets['train']}"
        )
    if plan.statistics and datamodule.stats_manager is not None:
        known = datamodule.stats_manager.names()
        for name in plan.statistics:
            if name not in known:
                raise ConfigError(
                    f"${{training_data_stats:{name}}}: data.stats_manager has no statistic of this "
                    f"name{closest(name, known)} (it has {', '.join(known)})"
                )
    return datamodule


def _trainer(config: Mapping[str, Any]) -> lightning.Trainer:
    # The data module gives each process its share, without repeating frames as Lightning does.
    given: dict[str, Any] = {"inference_mode": False, "use_distributed_sampler": False}
    if config.get("logger") in (None, True) and not _has_tensorboard():
        from lightning.pytorch.loggers import CSVLogger

        # Where Lightning's default logger writes, and without the warning of its fallback.
        given["logger"] = CSVLogger(save_dir=config.get("default_root_dir") or Path.cwd())
    trainer = build(dict(config), "trainer", **given)
    if trainer.world_size > 1 and config.get("use_distributed_sampler"):
        raise ConfigError(
            "trainer.use_distributed_sampler: remove it; the data module gives each process its "
            "share of every batch, and Lightning's sampler would repeat frames"
        )
    return trainer


def _has_tensorboard() -> bool:
    return any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX"))


def _versions(extensions: list[str]) -> dict[str, str]:
    owners = importlib.metadata.packages_distributions()
    names = [*_LAYERS, *(owners.get(module, [module])[0] for module in extensions)]
    return {"python": platform.python_version(), **installed_versions(names)}


@errors_of_workers()
def _fresh_module(
    config: DictConfig, plan: Plan, datamodule: NequIPDataModule, info: dict[str, Any]
) -> NequIPLightningModule:
    from nequip_train.energy_shifts import log_shifts, refit_energy_shifts

    statistics: dict[str, Any] = {}
    if plan.statistics:
        statistics = datamodule.get_statistics("train")
        # Some data sets know their units without being told, once they are built.
        info["units"] = datamodule.units
        units = datamodule.statistics_units()
        for name in dict.fromkeys(plan.statistics):
            value = f"{statistics[name]} {units.get(name) or ''}".rstrip()
            _LOG.info("statistics of the training data: %s = %s", name, value)
    register_statistics(statistics)
    resolved = resolve(config, "training_module")
    info["training_module"] = resolved
    module = training_module(resolved, datamodule.num_datasets, info)
    if module.energy_shifts is None or "train" not in plan.stages:
        return module
    found = refit_energy_shifts(module, module.energy_shifts, datamodule.batches("train"))
    log_shifts(found, datamodule.units.get("energy"))
    info["energy_shifts"] = found.as_plain()
    return training_module({**resolved, "model": found.model}, datamodule.num_datasets, info)


def _consent(config: DictConfig) -> bool | None:
    """Return the consent to run code of packages that the model section of the config gives.

    The model is that of the checkpoint, but a checkpoint cannot consent to its own code.
    """
    from omegaconf import OmegaConf

    waiting: list[Any] = [OmegaConf.to_container(config.training_module, resolve=False)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("trust_code") is True:
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return None


def _restored_module(
    checkpoint: Mapping[str, Any],
    datamodule: NequIPDataModule,
    info: dict[str, Any],
    path: str | None,
    trust_code: bool | None,
) -> NequIPLightningModule:
    from nequip_model.checkpoint import BASES_KEY
    from nequip_model.checkpoint_bases import config_from_file

    hyper_parameters = dict(checkpoint["hyper_parameters"])
    written = hyper_parameters.pop("info_dict")["training_module"]
    info["training_module"] = written
    hyper_parameters.pop("num_datasets", None)
    config = {**hyper_parameters, TARGET: written[TARGET]}
    with config_from_file(config["model"], checkpoint.get(BASES_KEY), str(path), trust_code):
        module = training_module(config, datamodule.num_datasets, info)
    module.load_state_dict(checkpoint["state_dict"])
    return module


def _check_monitors(trainer: lightning.Trainer, module: NequIPLightningModule) -> None:
    """Raise a ConfigError if a callback or the scheduler watches a name that is never logged."""
    known = [
        f"{prefix}/{name}"
        for prefix, _, manager in managers_of(module)
        for name in manager.value_names()
    ]
    watched = [
        (f"trainer.callbacks ({type(callback).__name__})", getattr(callback, "monitor", None))
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    ]
    scheduler = module.lr_scheduler_config or {}
    watched.append(("training_module.lr_scheduler", scheduler.get("monitor")))
    for where, monitor in watched:
        if not isinstance(monitor, str) or monitor in known:
            continue
        near = closest(monitor, known)
        if near or _LOGGED_BY_US.match(monitor):
            raise ConfigError(f"{where}.monitor: '{monitor}' is never logged{near}")


def _check_labels(datamodule: NequIPDataModule, needs: Sequence[Need], stages: list[str]) -> None:
    """Raise a DataError if the data lack a label that loss or metrics compare with."""
    _, table = check_labels(datamodule, needs, stages)
    _LOG.info("labels of the data, in how many of the frames looked at:\n%s", "\n".join(table))


@errors_of_workers()
def _run_stages(
    plan: Plan,
    first: int,
    trainer: lightning.Trainer,
    module: NequIPLightningModule,
    datamodule: NequIPDataModule,
    session: RunSession,
) -> None:
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    if plan.checkpoint is None:
        _warn_of_checkpoints(trainer, plan.stages)
    if plan.stages[0] != "train" and plan.checkpoint is None:
        _LOG.warning(
            "'%s' comes before any training: it measures the weights that the seed gives",
            plan.stages[0],
        )
    trained = False
    for index, stage in enumerate(plan.stages[first:], start=first):
        _LOG.info("run %d of %d: %s", index + 1, len(plan.stages), stage)
        module.run_stage.fill_(index)
        try:
            if stage == "train":
                trainer.fit(
                    module, datamodule=datamodule, ckpt_path=plan.checkpoint, weights_only=True
                )
                trained = True
            else:
                evaluate = trainer.validate if stage == "val" else trainer.test
                best = "best" if trained and _has_best(trainer) else None
                if trained and best is None:
                    _LOG.warning("there is no best checkpoint: '%s' uses the last weights", stage)
                values = evaluate(
                    module, datamodule=datamodule, ckpt_path=best, weights_only=True, verbose=False
                )
                session.results(values)
                if trainer.is_global_zero:
                    print_metrics(values)
        except MisconfigurationException as error:
            raise ConfigError(f"trainer: {error}") from error
        except SystemExit:
            # Lightning's end of an interrupted stage.
            if not trainer.interrupted:
                raise
        if trainer.interrupted:
            if session.options.restart:
                _LOG.info("interrupted; continue with: nequip-train resume '%s'", session.folder)
            else:
                _say_where(
                    trainer, "interrupted; continue with ++ckpt_path='%s'", "last_model_path"
                )
            raise KeyboardInterrupt
    if trained:
        _say_where(trainer, "best checkpoint: %s", "best_model_path")


def _warn_of_checkpoints(trainer: lightning.Trainer, stages: list[str]) -> None:
    """Warn before a fresh training where Lightning will give its checkpoints other names."""
    for callback in trainer.checkpoint_callbacks if "train" in stages else ():
        folder = getattr(callback, "dirpath", None)
        old = sorted(path.name for path in Path(folder).glob("*.ckpt")) if folder else []
        if old:
            _LOG.warning(
                "'%s' holds checkpoints of an earlier run (%s); they stay, and those of this run "
                "get names with -v1, -v2, ...",
                folder,
                ", ".join(old),
            )


def _say_where(trainer: lightning.Trainer, message: str, attribute: str) -> None:
    """Log where a checkpoint is, if there is one."""
    paths = [getattr(callback, attribute, "") for callback in trainer.checkpoint_callbacks]
    for path in [path for path in paths if path][:1]:
        _LOG.info(message, path)


def _has_best(trainer: lightning.Trainer) -> bool:
    callback = trainer.checkpoint_callback
    return bool(getattr(callback, "best_model_path", ""))
