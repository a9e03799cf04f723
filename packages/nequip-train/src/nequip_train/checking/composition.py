"""Composed configs outside and inside of a Hydra job, and what Hydra says against one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from nequip_core.errors import ConfigError, closest
from nequip_train.checking.positions import Positions, positions_of, yaml_mistake
from nequip_train.resolvers import register_resolvers

__all__ = ["JOB_NAME", "composed", "composition_error", "positions_in_job"]

JOB_NAME = "train"
"""What Hydra calls the job of `nequip-train`."""


@contextlib.contextmanager
def composed(
    folder: str, name: str, overrides: Sequence[str]
) -> Iterator[tuple[DictConfig, Positions]]:
    """Compose a config as a run would, without a run's folder; give config and positions.

    Args:
        folder: where the config is.
        name: its name, with or without ``.yaml``.
        overrides: as on the command line.

    Raises:
        ConfigError: it is no YAML, or cannot be composed.
    """
    register_resolvers()
    before = HydraConfig.instance().cfg
    try:
        with initialize_config_dir(folder, job_name=JOB_NAME, version_base=None):
            config = compose(name.removesuffix(".yaml"), list(overrides), True)
            run_folder = os.path.abspath(str(OmegaConf.select(config, "hydra.run.dir")))  # noqa: PTH100 - need not exist
            with read_write(config), open_dict(config):
                config.hydra.runtime.output_dir = run_folder
                config.hydra.job.setdefault("id", "0")
                config.hydra.job.setdefault("num", 0)
            HydraConfig.instance().set_config(config)
            positions = positions_in_job(config)
            with read_write(config), open_dict(config):
                del config["hydra"]
            yield config, positions
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise composition_error(error) from error
    finally:
        HydraConfig.instance().cfg = before


def positions_in_job(config: DictConfig) -> Positions:
    """Return where the values of the config of the current Hydra job were written."""
    hydra = HydraConfig.get()
    # As they are: one may itself contain ${...}.
    written = OmegaConf.to_container(hydra.overrides, resolve=False)
    overrides = [text for key in ("hydra", "task") for text in written[key]]  # type: ignore[index,call-overload]
    # What Hydra adds for a job of several.
    overrides = [text for text in overrides if not text.startswith("hydra.mode=")]
    return positions_of(config, str(hydra.job.config_name), overrides)


def composition_error(error: Exception) -> ConfigError:
    """Return in one line what Hydra, OmegaConf or PyYAML says against a config."""
    if isinstance(error, yaml.YAMLError):
        return ConfigError(yaml_mistake(error))
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return ConfigError(_unknown_key(cause))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ConfigError("; ".join(lines + (str(cause).splitlines()[:1] if cause else [])))


def _unknown_key(error: ConfigAttributeError | ConfigKeyError) -> str:
    """Return what to say of an override of a key that the config does not have."""
    key, path = str(error.key), str(error.full_key)
    parent = path.removesuffix(key).rstrip(".")
    node = error.parent_node
    there = [str(name) for name in node] if isinstance(node, DictConfig) else []
    return (
        f"override of '{path}': there is no key '{key}'{f' in {parent}' if parent else ''} (a new "
        f"one is given as ++{path}=...){closest(key, there)}"
    )
