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
from omegaconf.errors import OmegaConfBaseException

from nequip_core.errors import ConfigError
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
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = f"{error.__cause__}".splitlines()[:1] if error.__cause__ else []
    return ConfigError("; ".join(lines + cause))
