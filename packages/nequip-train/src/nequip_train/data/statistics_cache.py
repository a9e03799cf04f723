"""Statistics kept on disk, keyed by the content of everything they follow from.

The key holds the digests of the data files, the configs of data set, transforms and statistics, and
a digest of the code. What cannot be keyed so, e.g. a data set of a class from elsewhere, is not
kept. Entries are readable JSON files that appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nequip_core.files import atomic_path
from nequip_core.user_settings import cache_or_none
from nequip_train.data.content_key import (
    Uncacheable,
    check_targets_known,
    code_digests,
    content_digest,
    library_versions,
    plain,
    without_paths,
)

__all__ = ["CACHE_VARIABLE", "StatisticsCache", "Uncacheable", "cache_folder", "cache_key"]

_LOG = logging.getLogger(__name__)
CACHE_VARIABLE = "NEQUIP_STATISTICS_CACHE"
FORMAT = 1

Values = dict[str, float | dict[str, float]]

# Arguments of a loader that do not change which frames there are.
_ORDER_ONLY = (
    "batch_size",
    "multiprocessing_context",
    "num_workers",
    "persistent_workers",
    "pin_memory",
    "prefetch_factor",
    "shuffle",
    "timeout",
)


def cache_folder() -> Path | None:
    """Return the folder of the cache, None if it is switched off.

    It is what the environment variable ``NEQUIP_STATISTICS_CACHE`` says (``off`` for none), or
    ``nequip/statistics`` in the user's cache folder.
    """
    return cache_or_none(CACHE_VARIABLE, "statistics")


def cache_key(
    dataset: Mapping[str, Any],
    files: Sequence[str] | None,
    loader: Mapping[str, Any],
    statistics: Mapping[str, Any],
    kinds: Mapping[str, str],
) -> dict[str, Any]:
    """Return everything that statistics follow from, as plain containers.

    Args:
        dataset: config of the data set, transforms and cutoffs included.
        files: the files whose bytes are its content, in order; None if that is not known.
        loader: config of the loader.
        statistics: config of the statistics.
        kinds: name of a statistic -> graph, node or edge.

    Raises:
        Uncacheable: a part of it cannot be keyed.
    """
    if files is None:
        raise Uncacheable("the data set does not say which files its content is")
    loader = {key: loader[key] for key in loader if key not in _ORDER_ONLY or _drops(loader)}
    for config in (dataset, loader, statistics):
        check_targets_known(config)
    key = {
        "dataset": without_paths(dataset),
        "files": [content_digest(file) for file in files],
        "loader": loader,
        "statistics": statistics,
        "kinds": dict(kinds),
        "code": code_digests(),
        "libraries": library_versions(),
    }
    return plain(key)


def _drops(loader: Mapping[str, Any]) -> bool:
    return bool(loader.get("drop_last")) or "batch_sampler" in loader


class StatisticsCache:
    """The kept values of one key.

    Args:
        folder: where entries are; made when the first one is written.
        key: what the values follow from, see `cache_key`.

    Attributes:
        path: the file of this entry.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.key = dict(key)
        # Not sorted: the order of the parts of a split decides which frames they get.
        name = hashlib.sha256(json.dumps(self.key).encode()).hexdigest()
        self.path = folder / f"{name[:32]}.json"

    def read(self, labels: Mapping[str, Sequence[str]]) -> Values | None:
        """Return the kept values, or None if there are none, or none that can be used.

        Args:
            labels: name of a statistic -> the types or type pairs it has a value of, if it is per
                type.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            self._warn(str(error))
            return None
        try:
            entry = json.loads(text)
            # As text, in which a NaN equals itself.
            if entry["format"] != FORMAT or json.dumps(entry["key"]) != json.dumps(self.key):
                raise ValueError("it is of another format or key")
            return {name: _checked(entry["values"][name], labels[name]) for name in labels}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._warn(f"{type(error).__name__}: {error}")
            return None

    def _warn(self, reason: str) -> None:
        _LOG.warning(
            "the cached statistics '%s' cannot be used and are computed anew (%s)",
            self.path,
            reason,
        )

    def write(self, values: Values, units: Mapping[str, str | None]) -> None:
        """Keep the values; a folder that cannot be written to is only logged."""
        entry = {
            "format": FORMAT,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "values": values,
            "units": dict(units),
            "key": self.key,
        }
        try:
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(entry, indent=1), encoding="utf-8")
        except OSError as error:
            _LOG.warning(
                "the statistics cannot be kept in '%s' (%s); set %s to another folder or to 'off'",
                self.path.parent,
                error,
                CACHE_VARIABLE,
            )


def _checked(value: Any, labels: Sequence[str]) -> float | dict[str, float]:
    """Return one kept value.

    Raises:
        TypeError: it is not numbers.
        KeyError: it is not of these types.
    """
    if not labels:
        return _number(value)
    if set(value) != set(labels):
        raise KeyError(f"values of {sorted(value)}, expected {sorted(labels)}")
    return {label: _number(value[label]) for label in labels}


def _number(value: Any) -> float:
    if not isinstance(value, float):
        raise TypeError(f"{value!r} is not a number")
    return value
