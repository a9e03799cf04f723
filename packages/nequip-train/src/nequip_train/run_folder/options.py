"""The top-level key ``run_folder`` of a config: what is added to a run, and what is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nequip_core.errors import ConfigError, closest

__all__ = ["RunFolderOptions", "run_folder_options"]


@dataclass(frozen=True)
class RunFolderOptions:
    """What a run writes into its folder without being asked.

    Attributes:
        restart: ``restart.ckpt``, from which an interrupted training goes on.
        restart_minutes: how often it is written; None for not by time.
        restart_steps: write it every so many batches; None for not by steps.
        metrics: ``metrics.csv`` and ``metrics.jsonl``.
        predictions: ``errors.json``: errors by type, and a sample of labels and predictions.
        report: ``report.html`` and its figures.
        progress: the progress bar with throughput, in place of Lightning's default one.
    """

    restart: bool = True
    restart_minutes: float | None = 10.0
    restart_steps: int | None = None
    metrics: bool = True
    predictions: bool = True
    report: bool = True
    progress: bool = True


def run_folder_options(value: Any) -> RunFolderOptions:
    """Return the options that the config gives.

    Args:
        value: what stands under ``run_folder``: nothing or true for the defaults, false for
            nothing at all, or a mapping with some of the attributes of `RunFolderOptions`.

    Raises:
        ConfigError: a key is unknown, or a value is of the wrong type.
    """
    if value is None or value is True:
        return RunFolderOptions()
    known = {field.name: field for field in fields(RunFolderOptions)}
    if value is False:
        switches = [name for name, field in known.items() if field.type == "bool"]
        return RunFolderOptions(**dict.fromkeys(switches, False))
    if not isinstance(value, Mapping):
        raise ConfigError(f"run_folder: must be true, false or a mapping, got {value!r}")
    for key, given in value.items():
        if key not in known:
            raise ConfigError(
                f"run_folder: there is no key '{key}'{closest(str(key), list(known))} "
                f"(there are {', '.join(known)})"
            )
        if known[key].type == "bool":
            if not isinstance(given, bool):
                raise ConfigError(f"run_folder.{key}: must be true or false, got {given!r}")
        elif given is not None:
            number = isinstance(given, int | float) and not isinstance(given, bool)
            if not number or not given > 0:
                raise ConfigError(f"run_folder.{key}: must be a number > 0 or null, got {given!r}")
    return RunFolderOptions(**{str(key): given for key, given in value.items()})
