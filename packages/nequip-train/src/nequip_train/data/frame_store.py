"""A file of frames as they are after the transforms, neighbor lists included: LMDB, no pickles.

Records by key: the number of a frame, 8 bytes big-endian -> `packed_frames.packed`; ``sizes`` ->
the numbers of atoms and of edges of all frames, (2, F) int64; ``about`` -> JSON with ``format``,
``frames`` and what else the writer states. Nothing else is in it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from nequip_core.errors import DataError
from nequip_core.frames import Frame, num_edges, num_nodes
from nequip_train.data.datasets import AtomicDataset
from nequip_train.data.lmdb_files import open_lmdb, put
from nequip_train.data.packed_frames import packed, unpacked

__all__ = ["FORMAT", "StoredFrames", "read_about", "write_frames"]

FORMAT = 1
_ABOUT, _SIZES = b"about", b"sizes"
# What is written at once and held in memory, bytes.
_AT_ONCE = 32_000_000
# What is left free on the disk, bytes.
_LEFT_FREE = 1_000_000_000


def _key(index: int) -> bytes:
    return index.to_bytes(8, "big")


def write_frames(path: Path, frames: Iterable[Frame], about: Mapping[str, Any]) -> None:
    """Write a new file; frames are taken one by one.

    Args:
        path: the file; nothing else may write to it.
        frames: the frames in order.
        about: what to state about them, as JSON has it.

    Raises:
        OSError: the disk is full, or nearly so.
        lmdb.Error: LMDB cannot write there.
    """
    sizes: list[tuple[int, int]] = []

    def records() -> Iterator[tuple[bytes, bytes]]:
        for index, frame in enumerate(frames):
            sizes.append((num_nodes(frame), num_edges(frame)))
            yield _key(index), packed(frame)

    environment = lmdb.open(str(path), subdir=False, map_size=1 << 30, sync=False, lock=False)
    with contextlib.closing(environment):
        for part in _parts(records()):
            if shutil.disk_usage(path.parent).free < _LEFT_FREE:
                raise OSError(f"less than {_LEFT_FREE / 1e9:.0f} GB are free on the disk")
            put(environment, part, append=True)
        content = {"format": FORMAT, "frames": len(sizes), **about}
        numbers = np.array(sizes, dtype="<i8").reshape(-1, 2).T
        last = [(_ABOUT, json.dumps(content).encode()), (_SIZES, numbers.tobytes())]
        put(environment, last, append=True)
        environment.sync(True)


def _parts(records: Iterable[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Yield lists of records that have some tens of megabytes each."""
    part: list[tuple[bytes, bytes]] = []
    total = 0
    for record in records:
        part.append(record)
        total += len(record[1])
        if total > _AT_ONCE:
            yield part
            part, total = [], 0
    if part:
        yield part


def read_about(path: Path) -> dict[str, Any]:
    """Return what is stated about the frames of a file.

    Raises:
        DataError: the file is damaged, incomplete, gone, or of another format.
    """
    try:
        with open_lmdb(str(path)) as transaction:
            content = transaction.get(_ABOUT, b"null")
        about = json.loads(bytes(content))
    except (lmdb.Error, ValueError) as error:
        raise DataError(f"'{path}' cannot be read: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DataError(f"'{path}' is no file of frames of format {FORMAT}")
    return about


class StoredFrames(AtomicDataset):
    """The frames of a file that `write_frames` has written, in place of the data set they are of.

    Args:
        path: the file.
        original: the data set; its transforms have been applied.

    Raises:
        DataError: the file is damaged, incomplete, gone, or of another format.
    """

    def __init__(self, path: Path, original: AtomicDataset) -> None:
        super().__init__((), original.energy_units, original.length_units)
        self.path = str(path)
        self.original = original
        count = int(read_about(path)["frames"])
        with open_lmdb(self.path) as transaction:
            sizes = np.frombuffer(bytes(transaction.get(_SIZES, b"")), dtype="<i8")
        if len(sizes) != 2 * count:
            raise DataError(f"'{path}' states the sizes of {len(sizes) // 2} of {count} frames")
        self._atoms, self._edges = sizes.reshape(2, count)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._atoms)

    def __str__(self) -> str:
        """Return what the original data set is called."""
        return str(self.original)

    def files(self) -> list[str] | None:
        """Return the files of the original data set."""
        return self.original.files()

    def keys_in_files(self) -> list[str]:
        """Return the names of the labels in the files of the original data set."""
        return self.original.keys_in_files()

    def num_atoms(self, indices: Sequence[int]) -> list[int]:
        """Return the numbers of atoms of frames, without reading the frames."""
        return self._atoms[list(indices)].tolist()

    def num_edges(self, indices: Sequence[int]) -> list[int]:
        """Return the numbers of edges of frames, without reading the frames."""
        return self._edges[list(indices)].tolist()

    def _get_data_list(self, indices: list[int]) -> list[Frame]:
        with open_lmdb(self.path) as transaction:
            records = [transaction.get(_key(index)) for index in indices]
        frames = []
        for index, record in zip(indices, records, strict=True):
            if record is None:
                raise DataError(f"frame {index} of {self} is missing in '{self.path}': remove it")
            frames.append(unpacked(bytes(record)))
        return frames
