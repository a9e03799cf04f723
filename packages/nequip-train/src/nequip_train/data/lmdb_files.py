"""LMDB files of frames: one pickled record a frame under the keys 0, 1, ..., and metadata."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch

from nequip_core.errors import ConfigError, DataError, MissingFileError
from nequip_core.fields import EDGE_INDEX_KEY, POSITIONS_KEY
from nequip_core.files import atomic_path, require_file
from nequip_core.frames import Frame, num_edges, num_frames, num_nodes, unbatched
from nequip_train.data.record_pickle import read_record, written_record

__all__ = [
    "NUM_ATOMS_METADATA_KEY",
    "NUM_EDGES_METADATA_KEY",
    "NUM_FRAMES_METADATA_KEY",
    "LMDBMetadataSpec",
    "existing_lmdb",
    "open_lmdb",
    "put",
    "read_metadata",
    "write_lmdb",
]

NUM_ATOMS_METADATA_KEY = "num_atoms_per_entry"
NUM_EDGES_METADATA_KEY = "num_edges_per_entry"
NUM_FRAMES_METADATA_KEY = "num_frames"
METADATA = b"__metadata__"

# LMDB allows a file to be open once in a process.
_OPENING = threading.Lock()


@dataclass(frozen=True)
class LMDBMetadataSpec:
    """A further entry of the metadata, gathered over the frames while they are written.

    Args:
        name: its name.
        extractor: frame -> value of the frame.
        reducer: value so far, value of a frame -> value. A list becomes an array in the end.
        initial: the value before the first frame; it is not changed in place.
    """

    name: str
    extractor: Callable[[Frame], Any]
    reducer: Callable[[Any, Any], Any]
    initial: Any


def existing_lmdb(file_path: str) -> str:
    """Return the path of an LMDB file.

    Raises:
        MissingFileError: there is no such file; where it is a folder with one, the message says so.
    """
    if (Path(file_path) / "data.mdb").is_file():
        raise MissingFileError(
            f"LMDB file expected at '{file_path}', but this is a folder; give '{file_path}/"
            "data.mdb', the file in it"
        )
    return str(require_file(file_path, "LMDB file"))


@contextlib.contextmanager
def open_lmdb(file_path: str) -> Iterator[lmdb.Transaction]:
    """Yield a transaction that reads a file, which is closed afterwards.

    Opening takes a few tens of microseconds, so nothing is kept open: processes can fork or spawn
    at any time, and any number of data sets read one file.

    Raises:
        DataError: the file is no LMDB file, or is incomplete.
    """
    with _OPENING:
        try:
            environment = lmdb.open(
                file_path,
                subdir=False,
                readonly=True,
                lock=False,
                readahead=False,
                max_readers=2048,
            )
        except lmdb.Error as error:
            require_file(file_path, "LMDB file")
            raise DataError(f"'{file_path}' cannot be read as LMDB: {error}") from error
        with contextlib.closing(environment):
            # A page beyond the end of the file would end the process by a signal.
            needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
            size = Path(file_path).stat().st_size
            if size < needed:
                raise DataError(
                    f"'{file_path}' is incomplete: it has {size} bytes of {needed}; copy or write "
                    "it again"
                )
            with environment.begin() as transaction:
                yield transaction


def read_metadata(file_path: str) -> tuple[dict[str, Any] | None, int]:
    """Return the metadata of a file, None without, and the number of its frames.

    Raises:
        DataError: the file is no LMDB file of frames, or is incomplete.
    """
    try:
        with open_lmdb(file_path) as transaction:
            content = transaction.get(METADATA)
            records = transaction.stat()["entries"] - (content is not None)
            first = transaction.get(b"0")
    except lmdb.Error as error:
        raise DataError(f"'{file_path}' cannot be read as LMDB: {error}") from error
    metadata = None
    if content is not None:
        metadata = read_record(content, f"the metadata of '{file_path}'")
        if not isinstance(metadata, dict):
            raise DataError(f"the metadata of '{file_path}' is no dictionary")
        # A file that was written over has more records; one of batches has fewer than frames.
        records = min(records, int(metadata.get(NUM_FRAMES_METADATA_KEY, records)))
    if records < 1:
        raise DataError(f"'{file_path}' holds no frames")
    if first is None:
        raise DataError(
            f"'{file_path}' is an LMDB file, but not of frames: it has no entry '0' among its "
            f"{records} entries"
        )
    return metadata, records


def write_lmdb(
    file_path: str,
    iterator: Iterable[Frame],
    map_size: int,
    write_frequency: int,
    extra_metadata: Sequence[LMDBMetadataSpec],
) -> None:
    """Write frames to a file, see `NequIPLMDBDataset.save_from_iterator`."""
    if write_frequency < 1 or map_size < 1:
        raise ConfigError(
            f"write_frequency and map_size must be at least 1, got {write_frequency} and {map_size}"
        )
    _check_names(extra_metadata)
    with atomic_path(file_path) as path:
        try:
            # No writemap: the file would have the size of the map.
            environment = lmdb.open(str(path), subdir=False, map_size=map_size, sync=False)
            with contextlib.closing(environment), _shown(iterator) as frames:
                _write_frames(environment, frames, write_frequency, extra_metadata, file_path)
                environment.sync(True)
        except lmdb.Error as error:
            raise DataError(
                f"LMDB cannot write '{file_path}': {error}; it needs room on the disk, and "
                f"{map_size} bytes of address space (map_size)"
            ) from error


def _check_names(extra_metadata: Sequence[LMDBMetadataSpec]) -> None:
    taken = {NUM_ATOMS_METADATA_KEY, NUM_EDGES_METADATA_KEY, NUM_FRAMES_METADATA_KEY}
    for spec in extra_metadata:
        if spec.name in taken:
            raise ConfigError(f"there is a metadata entry '{spec.name}' already")
        taken.add(spec.name)


@contextlib.contextmanager
def _shown(iterator: Iterable[Frame]) -> Iterator[Iterable[Frame]]:
    """Yield an iterator with a progress bar where somebody can see one."""
    if not sys.stderr.isatty():
        yield iterator
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    total = len(iterator) if isinstance(iterator, Sized) else None
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress.track(iterator, total=total, description="writing frames")


def _write_frames(
    environment: lmdb.Environment,
    frames: Iterable[Frame],
    write_frequency: int,
    extra_metadata: Sequence[LMDBMetadataSpec],
    file_path: str,
) -> None:
    """Write frames and, in the end, their metadata."""
    atoms: list[int] = []
    edges: list[int | None] = []
    extra = {spec.name: spec.initial for spec in extra_metadata}

    def records() -> Iterator[tuple[bytes, bytes]]:
        for given in frames:
            for frame in _single_frames(given, len(atoms), file_path):
                yield str(len(atoms)).encode(), written_record(_storable(frame))
                atoms.append(num_nodes(frame))
                edges.append(num_edges(frame) if EDGE_INDEX_KEY in frame else None)
                for spec in extra_metadata:
                    extra[spec.name] = spec.reducer(extra[spec.name], spec.extractor(frame))

    waiting = records()
    while part := list(itertools.islice(waiting, write_frequency)):
        put(environment, part)
    if not atoms:
        raise DataError(f"there are no frames to write to '{file_path}'")
    metadata = {
        NUM_ATOMS_METADATA_KEY: np.array(atoms),
        # Without a neighbor list the entry is None, as other writers of the format have it.
        NUM_EDGES_METADATA_KEY: np.array(edges),
        NUM_FRAMES_METADATA_KEY: len(atoms),
        **{name: np.array(v) if isinstance(v, list) else v for name, v in extra.items()},
    }
    put(environment, [(METADATA, written_record(metadata))])


def _single_frames(given: Any, index: int, file_path: str) -> list[Frame]:
    """Return the frames of a frame or batch."""
    where = f"frame {index} for '{file_path}'"
    if not isinstance(given, dict) or POSITIONS_KEY not in given:
        found = sorted(map(str, given)) if isinstance(given, dict) else type(given).__name__
        raise DataError(f"{where} must be a dictionary with 'pos', got {found}")
    for key, value in given.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise DataError(
                f"{where}: '{key}' must be a tensor, got {type(value).__name__}; from_dict makes "
                "frames of arrays and numbers"
            )
    if num_frames(given) == 1:
        return [given]
    try:
        return unbatched(given)
    except KeyError as error:
        raise DataError(f"{where}: the batch cannot be split: {error.args[0]}") from error


def _storable(frame: Frame) -> Frame:
    """Return a frame whose tensors are on the CPU and own no more than what they show."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in frame.items()}
    return {
        key: value.clone() if value.untyped_storage().nbytes() > value.nbytes else value
        for key, value in tensors.items()
    }


def put(
    environment: lmdb.Environment, records: Sequence[tuple[bytes, bytes]], append: bool = False
) -> None:
    """Write records at once, with a larger map where the present one is full.

    Args:
        environment: where to write.
        records: keys and values.
        append: whether the keys are in order and after all others, so that pages become full.
    """
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in records:
                    transaction.put(key, value, append=append)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])
