"""Frames kept on disk as they are after the transforms, so that neighbor lists are found once.

An entry is a file of `nequip_train.data.frame_store`, named by the SHA-256 of everything that its
frames follow from: the bytes of the data files, the config of the data set with its transforms, the
source of our code, the fields there are, and the versions of libraries. What cannot be keyed so is
not kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lmdb
from rich.console import Console

from nequip_core import fields
from nequip_core.errors import DataError, NequIPError
from nequip_core.file_lock import locked
from nequip_core.files import atomic_path
from nequip_core.frames import Frame
from nequip_core.transforms import NeighborListTransform
from nequip_train.data.content_key import (
    Uncacheable,
    check_targets_known,
    code_digests,
    content_digest,
    file_stamp,
    library_versions,
    plain,
    without_paths,
)
from nequip_train.data.datasets import ASEDataset, AtomicDataset
from nequip_train.data.frame_folder import (
    CACHE_VARIABLE,
    SUFFIX,
    cache_folder,
    lock_file,
    prune,
)
from nequip_train.data.frame_store import StoredFrames, write_frames
from nequip_train.run_folder.throughput import tracked_batches

__all__ = ["kept"]

_LOG = logging.getLogger(__name__)
# What was not used for so long goes when something new is kept, days.
_UNUSED = 30.0


def kept(dataset: AtomicDataset, config: Mapping[str, Any]) -> AtomicDataset:
    """Return the same frames from the cache, where they are put first if they are not there.

    Kept are data sets of which text is parsed or neighbor lists are made. One process writes, the
    others wait for it. Where nothing can be kept, the data set itself is returned, and the log
    says why.

    Args:
        dataset: a data set.
        config: what it was built from.

    Raises:
        DataError: a file of the data set cannot be read.
    """
    folder = cache_folder()
    if folder is None or not _is_worth_it(dataset):
        return dataset
    try:
        key = _key(dataset, config)
        path = folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}{SUFFIX}"
        # What is damaged now is not looked at again, but what appears meanwhile is.
        damaged = path.exists()
        found = _found(path, dataset)
        if found is None:
            folder.mkdir(parents=True, exist_ok=True)
            waiting = f"waiting for the frames of {dataset}, which another process makes"
            with locked(lock_file(path), lambda: _LOG.info(waiting)):
                found = None if damaged else _found(path, dataset)
                if found is None:
                    _write(path, dataset, key)
                    found = StoredFrames(path, dataset)
        return found
    except Uncacheable as reason:
        _LOG.info("the frames of %s are not kept: %s", dataset, reason)
    except (OSError, lmdb.Error) as error:
        _LOG.warning(
            "the frames of %s cannot be kept in '%s' (%s); neighbor lists are made at every "
            "access. Set %s to another folder or to 'off'",
            dataset,
            folder,
            error,
            CACHE_VARIABLE,
        )
    return dataset


def _is_worth_it(dataset: AtomicDataset) -> bool:
    finds = any(isinstance(step, NeighborListTransform) for step in dataset.transforms)
    return bool(dataset.files()) and (finds or isinstance(dataset, ASEDataset))


def _key(dataset: AtomicDataset, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that frames follow from.

    Raises:
        Uncacheable: a part of it cannot be keyed.
        OSError: a file cannot be read.
    """
    check_targets_known(config)
    kinds = ("graph", "node", "edge", "long", "cartesian_tensor")
    return plain(
        {
            "dataset": without_paths(config),
            "files": [content_digest(file) for file in dataset.files() or ()],
            "fields": {kind: sorted(getattr(fields, f"_{kind.upper()}_FIELDS")) for kind in kinds},
            "code": code_digests(),
            "libraries": library_versions(),
        }
    )


def _found(path: Path, dataset: AtomicDataset) -> StoredFrames | None:
    """Return the frames of an entry, None where there is none that can be used."""
    if not path.exists():
        return None
    try:
        frames = StoredFrames(path, dataset)
    except (DataError, lmdb.Error) as error:
        _LOG.warning("kept frames cannot be used and are made anew (%s)", error)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    _LOG.info("frames of %s: from '%s' (same data, config and code)", dataset, path)
    return frames


def _write(path: Path, dataset: AtomicDataset, key: Mapping[str, Any]) -> None:
    """Add an entry.

    Raises:
        Uncacheable: a frame is refused by a transform, or a file was written to meanwhile.
        OSError: the disk is full, for instance.
        lmdb.Error: LMDB cannot write there.
    """
    started = time.monotonic()
    before = [file_stamp(file) for file in dataset.files() or ()]
    about = {
        "name": str(dataset),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "key": dict(key),
    }
    _LOG.info("frames of %s: making neighbor lists, once", dataset)
    frames = _transformed(dataset)
    if sys.stderr.isatty():
        console, total = Console(stderr=True), dataset.length_without_reading()
        frames = tracked_batches(frames, f"frames of {dataset}", console, total)
    with atomic_path(path) as temporary:
        write_frames(temporary, frames, about)
        if [file_stamp(file) for file in dataset.files() or ()] != before:
            raise Uncacheable("a file was written to while it was read")
    with contextlib.suppress(OSError):
        prune(path.parent, unused_days=_UNUSED)
    _LOG.info("frames of %s: kept in '%s', %.0f s", dataset, path, time.monotonic() - started)


def _transformed(dataset: AtomicDataset) -> Iterator[Frame]:
    for index, frame in enumerate(dataset.untransformed()):
        try:
            done = dataset.transformed(frame, index)
        except NequIPError as error:
            # It may be a frame that the run does not use: it is met again at its access.
            raise Uncacheable(str(error)) from error
        yield done
