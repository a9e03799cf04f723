"""Data sets in files of arrays: NumPy's npz and HDF5."""

from __future__ import annotations

import bisect
import functools
import os
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nequip_core.errors import ConfigError, DataError, closest
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    ATOMIC_NUMBERS_KEY,
    FORCE_KEY,
    POSITIONS_KEY,
    TOTAL_ENERGY_KEY,
    get_field_type,
)
from nequip_core.files import require_file
from nequip_core.frames import Frame, from_dict
from nequip_train.data.datasets import AtomicDataset, Transform

if TYPE_CHECKING:
    import h5py

__all__ = ["HDF5Dataset", "NPZDataset"]

_NPZ_KEYS = {
    "R": POSITIONS_KEY,
    "z": ATOMIC_NUMBERS_KEY,
    "E": TOTAL_ENERGY_KEY,
    "F": FORCE_KEY,
}
_HDF5_KEYS = {
    "pos": POSITIONS_KEY,
    "energy": TOTAL_ENERGY_KEY,
    "forces": FORCE_KEY,
    "atomic_numbers": ATOMIC_NUMBERS_KEY,
    "types": ATOM_TYPE_KEY,
}
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# They may be given once for all frames.
_SHARED = (ATOMIC_NUMBERS_KEY, ATOM_TYPE_KEY)


def _frame(arrays: Mapping[str, Any], index: int, where: str) -> Frame:
    """Return frame `index` of arrays by field, the first axis being frames.

    Raises:
        DataError: the shapes do not fit together.
    """
    values: dict[str, Any] = {}
    for field, array in arrays.items():
        if field in _SHARED and array.ndim == 1:
            values[field] = np.array(array[()])
            continue
        value = np.array(array[index])
        if value.dtype.kind == "f":
            value = value.astype(np.float64)
        values[field] = value[None] if get_field_type(field) == "graph" else value
    try:
        return from_dict(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"frame {index} of {where}: {error}") from error


def _check_arrays(arrays: Mapping[str, Any], count: int, where: str) -> None:
    """Check that every array has one entry a frame.

    Raises:
        DataError: one has not.
    """
    for field, array in arrays.items():
        shared = field in _SHARED and array.ndim == 1
        if not shared and (array.ndim == 0 or array.shape[0] != count):
            raise DataError(
                f"{where}: '{field}' has shape {tuple(array.shape)}, expected {count} frames along "
                "its first axis"
            )


def _checked_mapping(mapping: Mapping[str, str]) -> dict[str, str]:
    for field in mapping.values():
        if get_field_type(field, error_on_unregistered=False) is None:
            raise ConfigError(
                f"key_mapping: '{field}' is not a registered field; fields of your own are "
                "registered with nequip.data.register_fields"
            )
    return dict(mapping)


def _stored_array(path: str, name: str) -> np.ndarray | None:
    """Return an array of an npz file as it lies there, without reading it.

    None if it has to be read: it is compressed, of objects, empty, or of a rare header.

    Raises:
        ValueError: there is no array where the file says that there is one.
    """
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with Path(path).open("rb") as file:
        # The header before the content may differ in length from the one in the directory.
        file.seek(member.header_offset + 26)
        lengths = struct.unpack("<HH", file.read(4))
        file.seek(sum(lengths), os.SEEK_CUR)
        read_header = _NPY_HEADERS.get(np.lib.format.read_magic(file))
        if read_header is None:
            return None
        shape, fortran, dtype = read_header(file)
        if dtype.hasobject or 0 in shape:
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


class NPZDataset(AtomicDataset):
    """Frames of the same atoms in an npz file, the first axis of an array being frames.

    Args:
        file_path: a file of `numpy.savez`, whose frames are read when they are asked for, or of
            `numpy.savez_compressed`, which is read at once. It holds no pickled objects.
        transforms: see `AtomicDataset`.
        key_mapping: name in the file -> field name; other arrays of the file are left. Needed are
            ``pos`` (F, N, 3), ``total_energy`` (F,) or (F, 1), and ``atomic_numbers`` (N,) or
            (F, N). There is no cell unless ``cell`` and ``pbc`` are mapped.
        energy_units: see `AtomicDataset`.
        length_units: see `AtomicDataset`.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: a field is not registered.
        DataError: the file is no npz file, an array is missing, or shapes do not fit together.
    """

    def __init__(
        self,
        file_path: str,
        transforms: Sequence[Transform] = (),
        key_mapping: Mapping[str, str] | None = None,
        energy_units: str | None = None,
        length_units: str | None = None,
    ) -> None:
        super().__init__(transforms, energy_units, length_units)
        self.file_path = str(require_file(file_path, "data file"))
        mapping = _checked_mapping(_NPZ_KEYS if key_mapping is None else key_mapping)
        self.key_mapping, self._forces_optional = mapping, key_mapping is None
        for field in (POSITIONS_KEY, TOTAL_ENERGY_KEY):
            if field not in self.arrays:
                raise ConfigError(
                    f"key_mapping: '{self.file_path}' needs one name mapped to '{field}', "
                    f"got {mapping}"
                )
        self.num_frames = len(np.atleast_1d(self.arrays[TOTAL_ENERGY_KEY]))
        _check_arrays(self.arrays, self.num_frames, str(self))
        if self.num_frames == 0:
            raise DataError(f"{self} holds no frames")

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by field; without a mapping of the user's, forces may be absent."""
        try:
            with np.load(self.file_path, allow_pickle=False) as file:
                names = list(file.files)
                for name, field in self.key_mapping.items():
                    if name not in names and not (self._forces_optional and field == FORCE_KEY):
                        raise DataError(
                            f"{self} has no array '{name}'{closest(name, names)} (it has "
                            f"{', '.join(names)}); say by key_mapping which array is '{field}'"
                        )
                found = {}
                for name, field in self.key_mapping.items():
                    if name in names:
                        stored = _stored_array(self.file_path, name)
                        found[field] = file[name] if stored is None else stored
                return found
        except DataError:
            raise
        except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise DataError(f"{self} cannot be read as npz of plain arrays: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, which opens the file itself."""
        return {name: value for name, value in self.__dict__.items() if name != "arrays"}

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.num_frames

    def __str__(self) -> str:
        """Return the file's path in quotes."""
        return f"'{self.file_path}'"

    def files(self) -> list[str]:
        """Return the one file."""
        return [self.file_path]

    def keys_in_files(self) -> list[str]:
        """Return the names of the file's arrays."""
        with np.load(self.file_path, allow_pickle=False) as file:
            return sorted(file.files)

    def _get_data_list(self, indices: list[int]) -> list[Frame]:
        return [_frame(self.arrays, index, str(self)) for index in indices]


class HDF5Dataset(AtomicDataset):
    """Frames in HDF5 files: each group holds frames of the same atoms, as arrays over frames.

    Frames are read when they are asked for; groups are ordered by file, then by name.

    Args:
        file_name: path, or several joined by ``;``.
        transforms: see `AtomicDataset`.
        key_mapping: name in a group -> field name; others are left, and those that a group does
            not have are left out. Needed is ``pos`` (F, N, 3); ``atomic_numbers`` and
            ``atom_types`` may be (N,), for all frames of the group.
        energy_units: see `AtomicDataset`.
        length_units: see `AtomicDataset`.

    Raises:
        MissingFileError: a file does not exist.
        ConfigError: a field is not registered.
        DataError: a file is no HDF5 file, a group has no positions, or shapes do not fit together.
    """

    def __init__(
        self,
        file_name: str,
        transforms: Sequence[Transform] = (),
        key_mapping: Mapping[str, str] | None = None,
        energy_units: str | None = None,
        length_units: str | None = None,
    ) -> None:
        super().__init__(transforms, energy_units, length_units)
        names = [name.strip() for name in str(file_name).split(";")]
        self.file_names = [str(require_file(name, "data file")) for name in names if name]
        self.key_mapping = _checked_mapping(_HDF5_KEYS if key_mapping is None else key_mapping)
        self._open: dict[str, h5py.File] = {}
        self._process = os.getpid()
        self.groups: list[tuple[str, str]] = []
        # Number of frames before each group.
        self.starts: list[int] = []
        self.num_frames = 0
        for file in self.file_names:
            for group in sorted(self._file(file)):
                count = self._checked_count(file, group)
                if count:
                    self.groups.append((file, group))
                    self.starts.append(self.num_frames)
                    self.num_frames += count
        if self.num_frames == 0:
            raise DataError(f"{self} holds no frames")

    def _checked_count(self, file: str, group: str) -> int:
        where = f"group '{group}' of '{file}'"
        arrays = self._arrays(file, group)
        if POSITIONS_KEY not in arrays:
            names = list(getattr(self._file(file)[group], "keys", list)())
            raise DataError(
                f"{where}: no array is mapped to '{POSITIONS_KEY}' (found: "
                f"{', '.join(names) or 'no group'}); say by key_mapping which one is"
            )
        count = int(arrays[POSITIONS_KEY].shape[0])
        _check_arrays(arrays, count, where)
        return count

    def _file(self, name: str) -> h5py.File:
        """Return an open file; a process forked from this one opens its own."""
        import h5py

        if self._process != os.getpid():
            self._open, self._process = {}, os.getpid()
        if name not in self._open:
            try:
                self._open[name] = h5py.File(name, "r")
            except OSError as error:
                raise DataError(f"'{name}' cannot be read as HDF5: {error}") from error
        return self._open[name]

    def _arrays(self, file: str, group: str) -> dict[str, Any]:
        found = self._file(file)[group]
        if not hasattr(found, "keys"):
            return {}
        return {field: found[name] for name, field in self.key_mapping.items() if name in found}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, which opens the files itself."""
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        """Return the number of frames of all files."""
        return self.num_frames

    def __str__(self) -> str:
        """Return the files' paths in quotes."""
        return f"'{';'.join(self.file_names)}'"

    def files(self) -> list[str]:
        """Return the files in order."""
        return list(self.file_names)

    def keys_in_files(self) -> list[str]:
        """Return the names of the arrays of the first group."""
        file, group = self.groups[0]
        return sorted(self._file(file)[group])

    def _get_data_list(self, indices: list[int]) -> list[Frame]:
        frames = []
        for index in indices:
            number = bisect.bisect_right(self.starts, index) - 1
            file, group = self.groups[number]
            where = f"group '{group}' of '{file}'"
            frames.append(_frame(self._arrays(file, group), index - self.starts[number], where))
        return frames
