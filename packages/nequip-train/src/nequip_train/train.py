"""The Hydra application. Hydra names a job, and so its log file, after this module."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nequip_core.errors import ConfigError, NequIPError
from nequip_train.checking.composition import composition_error, positions_in_job
from nequip_train.checking.static import require_no_mistakes
from nequip_train.resolvers import register_resolvers

__all__ = ["GLOBAL_SEED", "application"]

GLOBAL_SEED = 123
"""Seed of the process's random numbers; model and data have seeds of their own in the config."""

# Set by torchrun, by Lightning for the processes that it starts, and by SLURM.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
_HYDRA_RECORDS = {"config.yaml", "hydra.yaml", "overrides.yaml"}


def application(arguments: Sequence[str]) -> None:
    """Compose the config that command-line arguments name, and run what it asks for.

    Args:
        arguments: as Hydra takes them, without the name of the program.

    Raises:
        NequIPError: config, data or checkpoint are wrong.
    """
    register_resolvers()
    started = time.time()
    mistakes: list[NequIPError] = []

    def task(config: DictConfig) -> None:
        try:
            _train(config)
        except NequIPError as error:
            mistakes.append(error)
            _discard_empty_output(Path(HydraConfig.get().runtime.output_dir), started)
            # Hydra adds lines of its own to any other exception.
            raise SystemExit(1) from error

    # Hydra names the job after the module of the task, the module that this is.
    main = hydra.main(version_base=None, config_path=str(Path.cwd()), config_name="config")(task)
    try:
        with _hydra_raises(), _command_line(arguments), _logging_restored():
            sys.argv += _overrides_of_rank()
            main()
    except SystemExit:
        if mistakes:
            raise mistakes[0] from None
        raise
    except OSError as error:
        raise ConfigError(f"the run's folder or a file in it cannot be written: {error}") from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise composition_error(error) from error


def _overrides_of_rank() -> list[str]:
    """Return what lets only the first of several processes write records and a log.

    The others show their warnings, and learn from the first one where files belong.
    """
    rank = next((os.environ[name] for name in _RANKS if name in os.environ), "0")
    if rank == "0":
        return []
    level = "hydra.job_logging.root.level=WARNING"
    return ["hydra.output_subdir=null", "hydra/job_logging=stdout", level]


def _train(config: DictConfig) -> None:
    require_no_mistakes(config, positions_in_job(config))

    import lightning

    from nequip_train.run import run

    lightning.seed_everything(GLOBAL_SEED, workers=True, verbose=False)
    with warnings.catch_warnings(), _lightning_log():
        # Frames are prepared fast; more worker processes are the user's choice, not an omission.
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        # Hydra has just written its records there.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* is not empty")
        # Lightning's own use of a name that torch has deprecated.
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\)")
        run(config)


@contextlib.contextmanager
def _lightning_log() -> Iterator[None]:
    """Show Lightning's messages once, by Hydra's handlers, and without its advertisement."""
    removed = []
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logger = logging.getLogger(name)
        removed.append((logger, list(logger.handlers)))
        logger.handlers.clear()
    try:
        with _without(logging.getLogger("lightning.pytorch.utilities.rank_zero"), "litlogger"):
            yield
    finally:
        for logger, handlers in removed:
            logger.handlers[:] = handlers


@contextlib.contextmanager
def _without(logger: logging.Logger, text: str) -> Iterator[None]:
    def wanted(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


@contextlib.contextmanager
def _hydra_raises() -> Iterator[None]:
    """Let Hydra raise its exceptions instead of printing them and exiting."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


@contextlib.contextmanager
def _command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Put arguments where Hydra, and Lightning for its further processes, look for them."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _logging_restored() -> Iterator[None]:
    """Close the log files that Hydra opens, and give the root logger its handlers back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


def _discard_empty_output(folder: Path, started: float) -> None:
    """Remove the folder of a run that failed before it wrote anything but Hydra's own records."""
    records = folder / ".hydra"
    log = f"{HydraConfig.get().job.name}.log"
    if not folder.is_dir() or any(item.name not in (".hydra", log) for item in folder.iterdir()):
        return
    files = [folder / log] if (folder / log).exists() else []
    files += list(records.iterdir()) if records.is_dir() else []
    ours = all(
        item.name in (*_HYDRA_RECORDS, log) and item.stat().st_mtime >= started - 1.0
        for item in files
    )
    if not ours:
        return
    for item in files:
        item.unlink()
    with contextlib.suppress(OSError):
        # A parent that holds anything else stays: rmdir refuses.
        below = [parent for parent in folder.parents if Path.cwd() in parent.parents]
        for empty in (records, folder, *below):
            empty.rmdir()
