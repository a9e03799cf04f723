"""The pass over a data set that takes its statistics, and where its results are kept."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nequip_core.errors import DataError
from nequip_core.file_lock import locked
from nequip_core.frames import Frame
from nequip_train.data.content_key import Stamp, Uncacheable, file_stamp
from nequip_train.data.datasets import AtomicDataset
from nequip_train.data.frame_folder import lock_file
from nequip_train.data.statistics import DataStatisticsManager
from nequip_train.data.statistics_cache import (
    StatisticsCache,
    cache_folder,
    cache_key,
)
from nequip_train.run_folder.throughput import tracked_batches

__all__ = ["dataset_files", "kept_statistics", "measured_statistics", "statistics_cache"]

_LOG = logging.getLogger(__name__)


def dataset_files(dataset: Any) -> list[str] | None:
    """Return the files whose bytes decide the frames of a data set, None if that is not known."""
    return dataset.files() if isinstance(dataset, AtomicDataset) else None


def measured_statistics(
    manager: DataStatisticsManager, loader: Iterable[Frame], where: str
) -> dict[str, Any]:
    """Return the statistics by a pass over the data, with a progress bar.

    Args:
        manager: what to take.
        loader: batches of all frames.
        where: what messages call the data.

    Raises:
        DataError: a statistic cannot be taken.
    """
    # Every process takes all frames, so there is nothing to merge.
    for statistic in manager.statistics:
        for metric in statistic.metrics:
            metric.distributed_available_fn = _not_distributed
    try:
        return manager.get_statistics(tracked_batches(loader, "data statistics"))
    except DataError as error:
        raise type(error)(f"{where}: {error}") from error


def statistics_cache(
    manager: DataStatisticsManager,
    data: AtomicDataset,
    stamps: Mapping[str, Stamp | None],
    owner: type,
    **configs: Mapping[str, Any],
) -> StatisticsCache | None:
    """Return where the statistics of a data set are kept, None if they are not.

    Args:
        manager: the statistics.
        data: the data set.
        stamps: the stamps of files when they were read.
        owner: class of the data module.
        **configs: the configs ``dataset``, ``loader`` and ``statistics`` of `cache_key`.
    """
    folder = cache_folder()
    if folder is None:
        return None
    try:
        if not owner.__module__.startswith("nequip_train.data."):
            raise Uncacheable(f"what '{owner.__qualname__}' does is not known here")
        files = dataset_files(data)
        for file in files or ():
            if file_stamp(file) is None or file_stamp(file) != stamps.get(file):
                raise Uncacheable(f"'{file}' has changed since it was read")
        kinds = {statistic.name: statistic.modifier.type for statistic in manager.statistics}
        key = cache_key(files=files, kinds=kinds, **configs)
    except Uncacheable as reason:
        _LOG.info("data statistics are not cached: %s", reason)
        return None
    return StatisticsCache(folder, key)


def kept_statistics(
    manager: DataStatisticsManager,
    cache: StatisticsCache,
    measure: Callable[[], dict[str, Any]],
    units: Mapping[str, str | None],
) -> dict[str, Any]:
    """Return the statistics that are kept, or measure and keep them.

    One process measures, the others wait for it.

    Args:
        manager: what to take.
        cache: where they are kept.
        measure: takes them.
        units: of the statistics by name.
    """

    def found() -> dict[str, Any] | None:
        values = cache.read(manager.labels())
        if values is None:
            return None
        _LOG.info("data statistics: from '%s' (same data, config and code)", cache.path)
        return manager.expanded(values)

    # What is damaged now is not looked at again, but what appears meanwhile is.
    damaged = cache.path.exists()
    results = found()
    with contextlib.ExitStack() as locks:
        if results is None:
            # A folder that cannot be written to is told when the values are to be written.
            with contextlib.suppress(OSError):
                cache.path.parent.mkdir(parents=True, exist_ok=True)
                locks.enter_context(locked(lock_file(cache.path), _say_waiting))
                results = None if damaged else found()
        if results is None:
            results = measure()
            cache.write({name: results[name] for name in manager.labels()}, units)
    return results


def _say_waiting() -> None:
    _LOG.info("waiting for the statistics that another process takes")


def _not_distributed() -> bool:
    return False
