"""The check that a run which goes on from a checkpoint is the run that wrote it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_core.errors import ConfigError
from nequip_core.files import atomic_path
from nequip_train.check import Plan, resolve
from nequip_train.resolvers import STATISTICS_RESOLVER
from nequip_train.restart.differences import ANY_STATISTIC, FORCE_KEY, check_unchanged

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["check_same_run", "remember_config"]

_LOG = logging.getLogger(__name__)
_OF_ONE_START = ("ckpt_path", FORCE_KEY)


def check_same_run(config: DictConfig, plan: Plan, checkpoint: Mapping[str, Any]) -> None:
    """Compare a config with the one in a checkpoint; log what has changed and may change.

    Args:
        config: the whole config as Hydra composed it.
        plan: the same config, checked.
        checkpoint: content of the checkpoint that the run goes on from.

    Raises:
        ConfigError: something else has changed, and there is no consent to that.
    """
    info = checkpoint["hyper_parameters"].get("info_dict") or {}
    now: dict[str, Any] = {"data": plan.data, "trainer": plan.trainer}
    now["training_module"] = _training_module(config)
    # Checkpoints of other writers, or of extensions, may not have every section.
    before = {name: info[name] for name in now if isinstance(info.get(name), Mapping)}
    now = {name: value for name, value in now.items() if name in before and value is not None}
    before = {name: before[name] for name in now}
    force = resolve(config, FORCE_KEY) if FORCE_KEY in config else False
    if not isinstance(force, bool):
        raise ConfigError(f"{FORCE_KEY}: must be true or false, got {force!r}")
    for difference in check_unchanged(before, now, str(plan.checkpoint), force):
        kept = " (not taken over)" if difference.key.startswith("training_module.") else ""
        _LOG.info("changed since the checkpoint: %s%s", difference, kept)


def _training_module(config: DictConfig) -> Any:
    """Return the section, with a stand-in for statistics; None if it cannot be resolved."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver(STATISTICS_RESOLVER, lambda name: ANY_STATISTIC, replace=True)
    try:
        return resolve(config, "training_module")
    except ConfigError as error:
        # The file that the training started from may be gone: the checkpoint does without it.
        _LOG.warning("training_module is not compared with the checkpoint's: %s", error)
        return None


def remember_config(config: DictConfig, run: Path) -> None:
    """Let the next `resume` start from the config of now, if this run was resumed.

    Args:
        config: the whole config as Hydra composed it.
        run: the folder of the run.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict

    file = run / ".hydra" / "config.yaml"
    if HydraConfig.get().output_subdir is not None or not file.is_file():
        return
    kept = config.copy()
    with open_dict(kept):
        for key in _OF_ONE_START:
            kept.pop(key, None)
    text = OmegaConf.to_yaml(kept)
    if text != file.read_text():
        with atomic_path(file) as temporary:
            temporary.write_text(text)
