"""Loaders of data sets: the share of this process, its worker processes, and what is collated."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import RandomSampler, SequentialSampler

from nequip_core.documented_names import canonical_name
from nequip_core.errors import ConfigError, DataError, NequIPError
from nequip_core.frames import Frame, batched_from_list
from nequip_core.instantiate import TARGET
from nequip_train.construction import accepted_arguments, build, resolve_target
from nequip_train.data.shares import DealtBatches, FillingCollate, split

__all__ = [
    "LOADER",
    "Surroundings",
    "build_loader",
    "collate",
    "errors_of_workers",
    "without_our_samplers",
]

LOADER = "torch.utils.data.DataLoader"
# Where a GPU computes, so many processes read frames for the one that drives it, at most.
_WORKERS = {"train": 4, "other": 2}
_OWN = "nequip_train.data."
_SAMPLERS = ("sampler", "batch_sampler")
_GROUPING = ("batch_size", "shuffle", "drop_last")
# How torch begins the message of an error that came from a worker process.
_CAUGHT = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback")


def collate(frames: Sequence[Frame]) -> Frame:
    """Return the batch of a list of frames.

    Raises:
        DataError: the frames do not have the same fields, or one of them requires gradients, which
            could not leave a worker process.
    """
    for frame in frames:
        for key, value in frame.items():
            if getattr(value, "requires_grad", False):
                raise DataError(
                    f"'{key}' of a frame requires gradients; data must not: end the transform or "
                    "data set that made it with .detach(), the model asks for its own gradients"
                )
    try:
        return batched_from_list(frames)
    except (RuntimeError, KeyError) as error:
        raise DataError(
            f"{error.args[0] if error.args else error}. Frames without a label can be given one of "
            "NaN by a transform such as AddNaNStressTransform, and 'ignore_nan' in loss and metrics"
        ) from error


@contextlib.contextmanager
def errors_of_workers() -> Iterator[None]:
    """Raise what a worker process has raised as it was, without the traceback that torch adds.

    Raises:
        NequIPError: of the class, and with the message, of the worker's.
    """
    try:
        yield
    except NequIPError as error:
        if not _CAUGHT.match(str(error)):
            raise
        kind = type(error)
        name = f"{kind.__module__}.{kind.__qualname__}: "
        raise kind(str(error).rpartition(name)[2].rstrip()) from error


@dataclass(frozen=True)
class Surroundings:
    """Where a loader works.

    Attributes:
        rank: this process among those that train together.
        world_size: their number.
        neighbours: those of them on this machine.
        on_gpu: whether this process drives a GPU.
    """

    rank: int = 0
    world_size: int = 1
    neighbours: int = 1
    on_gpu: bool = False

    @classmethod
    def of(cls, trainer: Any) -> Surroundings:
        """Return those of a trainer; None stands for one process that computes itself."""
        if trainer is None:
            return cls()
        return cls(
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            neighbours=trainer.num_devices,
            on_gpu=trainer.strategy.root_device.type == "cuda",
        )

    def workers(self, part: str) -> int:
        """Return how many worker processes a loader has by default.

        None where the CPU computes: its cores are busy. One core is left to the process itself.
        """
        if not self.on_gpu:
            return 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        most = _WORKERS["train" if part == "train" else "other"]
        return max(0, min(most, cores // self.neighbours - 1))


def build_loader(
    config: Mapping[str, Any],
    where: str,
    dataset: Any,
    generator: torch.Generator,
    surroundings: Surroundings | None = None,
) -> Any:
    """Return the loader of a data set.

    Among several processes it takes the share of this one, see `nequip_train.data.shares`. What a
    loader of torch's own class is not told, it gets: worker processes, which stay for all epochs,
    and memory that a GPU copies from, both only where there is a GPU.

    Args:
        config: of the loader.
        where: its key path, ``data.<part>_dataloader``.
        dataset: the data set.
        generator: decides the order.
        surroundings: default one process that computes itself.

    Raises:
        ConfigError: an argument does not fit, or a sampler knows nothing of several processes.
    """
    around = surroundings or Surroundings()
    config = dict(config)
    config.setdefault("collate_fn", collate)
    config.setdefault("generator", generator)
    if config["_target_"] == LOADER:
        part = where.removeprefix("data.").removesuffix("_dataloader")
        config.setdefault("num_workers", around.workers(part))
        if config["num_workers"]:
            config.setdefault("persistent_workers", True)
        config.setdefault("pin_memory", around.on_gpu)
    given: dict[str, Any] = {
        key: _sampler(config.pop(key), f"{where}.{key}", dataset, config["generator"])
        for key in _SAMPLERS
        if config.get(key) is not None
    }
    if around.world_size > 1:
        given = {"batch_sampler": _share(config, given, where, dataset, around)}
        collate_fn = build(config.pop("collate_fn"), f"{where}.collate_fn")
        given["collate_fn"] = FillingCollate(dataset, collate_fn)
    return build(config, where, dataset=dataset, **given)


def without_our_samplers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a loader's config without samplers of ours, so that it has every frame."""
    return {
        key: value
        for key, value in config.items()
        if not (
            key in _SAMPLERS
            and isinstance(value, Mapping)
            and canonical_name(str(value.get(TARGET))).startswith(_OWN)
        )
    }


def _sampler(config: Any, where: str, dataset: Any, generator: torch.Generator) -> Any:
    """Return a sampler, given the data set and what decides the order if it takes them."""
    if not isinstance(config, Mapping):
        return config
    given = {"data_source": dataset, "dataset": dataset, "generator": generator}
    taken = accepted_arguments(resolve_target(config, where))[0]
    given = {key: value for key, value in given.items() if key in taken}
    for key in given:
        if key in config:
            raise ConfigError(f"{where}.{key}: is given by the data module, remove it")
    return build(config, where, **given)


def _share(
    config: dict[str, Any],
    samplers: Mapping[str, Any],
    where: str,
    dataset: Any,
    around: Surroundings,
) -> Any:
    """Return the batch sampler of this process; what it stands for is taken from the config."""
    for key, sampler in samplers.items():
        if not type(sampler).__module__.startswith(_OWN):
            raise ConfigError(
                f"{where}.{key}: only one process can use it, because it does not know which "
                f"frames are whose among {around.world_size}; use 'batch_size' and 'shuffle', "
                "nequip.data.SizeLimitedBatchSampler or nequip.data.PartialSampler"
            )
    if "batch_sampler" in samplers:
        return DealtBatches(samplers["batch_sampler"], around.rank, around.world_size)
    grouping = {key: config.pop(key, None) for key in _GROUPING}
    order = samplers.get("sampler")
    if order is None and grouping["shuffle"]:
        order = RandomSampler(dataset, generator=config["generator"])
    elif order is None:
        order = SequentialSampler(dataset)
    return split(
        order,
        int(grouping["batch_size"] or 1),
        bool(grouping["drop_last"]),
        around.rank,
        around.world_size,
    )
