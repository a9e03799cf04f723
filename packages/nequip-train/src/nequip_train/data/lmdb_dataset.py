"""Data sets in LMDB files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from nequip_core.errors import DataError
from nequip_core.fields import POSITIONS_KEY
from nequip_core.frames import Frame, from_dict
from nequip_train.data.datasets import AtomicDataset, EMTTestDataset, Transform
from nequip_train.data.lmdb_files import (
    NUM_ATOMS_METADATA_KEY,
    LMDBMetadataSpec,
    existing_lmdb,
    open_lmdb,
    read_metadata,
    write_lmdb,
)
from nequip_train.data.record_pickle import read_record

__all__ = ["LMDBTestDataset", "NequIPLMDBDataset"]


class NequIPLMDBDataset(AtomicDataset):
    """The frames of an LMDB file; each is read when it is asked for.

    A file is written by `save_from_iterator`. Its records are pickles that are read without running
    code: one that holds more than tensors, arrays and plain values is refused.

    Args:
        file_path: the file.
        transforms: see `AtomicDataset`.
        exclude_keys: fields to leave out; one that a frame does not have is no mistake.
        energy_units: see `AtomicDataset`.
        length_units: see `AtomicDataset`.

    Raises:
        MissingFileError: there is no such file.
        DataError: the file is no LMDB file of frames, or is incomplete.
    """

    def __init__(
        self,
        file_path: str,
        transforms: Sequence[Transform] = (),
        exclude_keys: Sequence[str] = (),
        energy_units: str | None = None,
        length_units: str | None = None,
    ) -> None:
        super().__init__(transforms, energy_units, length_units)
        self.file_path = existing_lmdb(str(file_path))
        self.exclude_keys = frozenset(exclude_keys)
        self._metadata, self._count = read_metadata(self.file_path)

    def __len__(self) -> int:
        """Return the number of frames."""
        return self._count

    def __str__(self) -> str:
        """Return the file's path in quotes."""
        return f"'{self.file_path}'"

    def files(self) -> list[str] | None:
        """Return the one file."""
        return [self.file_path]

    def get_metadata(self, attr: str, idx: int | Sequence[int] | None = None) -> Any:
        """Return an entry of the metadata, or its values for frames; None if there is none.

        Args:
            attr: name of the entry: ``num_atoms_per_entry``, ``num_edges_per_entry`` (of None
                without a neighbor list), ``num_frames``, or one of the writer's own.
            idx: a frame, or several, of an entry with a value a frame.

        Raises:
            IndexError: there is no such frame.
        """
        value = (self._metadata or {}).get(attr)
        if value is None or idx is None:
            return value
        if isinstance(idx, int):
            return value[self._in_range(idx)]
        return [value[self._in_range(int(index))] for index in idx]

    def num_atoms(self, indices: Sequence[int]) -> list[int]:
        """Return the numbers of atoms of frames, without reading the frames where it is known."""
        known = self.get_metadata(NUM_ATOMS_METADATA_KEY)
        if known is None:
            return super().num_atoms([self._in_range(index) for index in indices])
        return [int(known[self._in_range(index)]) for index in indices]

    def _get_data_list(self, indices: list[int]) -> list[Frame]:
        with open_lmdb(self.file_path) as transaction:
            contents = [transaction.get(str(index).encode()) for index in indices]
        return [
            self._frame(content, index) for index, content in zip(indices, contents, strict=True)
        ]

    def _frame(self, content: bytes | memoryview | None, index: int) -> Frame:
        where = f"frame {index} of {self}"
        if content is None:
            raise DataError(f"{where} is missing: the file has no entry '{index}'")
        values = read_record(content, where)
        if not isinstance(values, dict) or POSITIONS_KEY not in values:
            found = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
            raise DataError(f"{where}: expected a dictionary with 'pos', found {found}")
        values = {key: value for key, value in values.items() if key not in self.exclude_keys}
        if not all(isinstance(value, torch.Tensor) for value in values.values()):
            try:
                values = from_dict(values)
            except (ValueError, TypeError) as error:
                raise DataError(f"{where}: {error}") from error
        return {
            key: value.double() if value.is_floating_point() else value
            for key, value in values.items()
        }

    @staticmethod
    def save_from_iterator(
        file_path: str,
        iterator: Iterable[Frame],
        map_size: int = 53687091200,
        write_frequency: int = 1000,
        extra_metadata: Sequence[LMDBMetadataSpec] = (),
    ) -> None:
        """Write frames to a file, which appears when all are written.

        A file that is there is replaced then; after an error or interrupt it is as it was. A batch
        is written as its frames. On a terminal a progress bar is shown.

        Args:
            file_path: the file.
            iterator: frames, or batches of them; they are taken one by one.
            map_size: address space to start with, bytes; more is taken where it is not enough. The
                file is only as large as its content.
            write_frequency: number of frames that are written at once and held in memory.
            extra_metadata: further entries of the metadata.

        Raises:
            DataError: there are no frames, one holds more than tensors, or LMDB cannot write.
            ConfigError: a number is less than 1, or a metadata entry stands twice.
        """
        write_lmdb(str(file_path), iterator, map_size, write_frequency, extra_metadata)


class LMDBTestDataset(NequIPLMDBDataset):
    """The frames of an `EMTTestDataset`, written to an LMDB file and read from it.

    Args:
        file_path: the file to write; one that is there is replaced.
        transforms: see `AtomicDataset`.
        supercell: see `EMTTestDataset`.
        sigma: see `EMTTestDataset`.
        element: see `EMTTestDataset`.
        num_frames: see `EMTTestDataset`.
        seed: see `EMTTestDataset`.
        energy_units: eV, unless transforms change them.
        length_units: Angstrom, unless transforms change them.
    """

    def __init__(
        self,
        file_path: str,
        transforms: Sequence[Transform] = (),
        supercell: tuple[int, int, int] = (4, 4, 4),
        sigma: float = 0.1,
        element: str = "Cu",
        num_frames: int = 10,
        seed: int = 123456,
        energy_units: str | None = "eV",
        length_units: str | None = "Angstrom",
    ) -> None:
        frames = EMTTestDataset((), supercell, sigma, element, num_frames, seed)
        self.save_from_iterator(file_path, frames[:])
        super().__init__(
            file_path, transforms, energy_units=energy_units, length_units=length_units
        )

    def files(self) -> list[str]:
        """Return that there are none: the arguments say everything."""
        return []
