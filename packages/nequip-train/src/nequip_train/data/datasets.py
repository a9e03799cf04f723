"""Data sets of frames."""

from __future__ import annotations

import abc
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nequip_core.ase_conversion import asked_keys, from_ase, label_keys, misspelled_key
from nequip_core.errors import ConfigError, DataError, NequIPError
from nequip_core.files import require_file
from nequip_core.frames import Frame, num_edges, num_nodes
from nequip_train.data.packed_frames import PackedFrames
from nequip_train.data.units import canonical_unit

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "ASEDataset",
    "AtomicDataset",
    "EMTTestDataset",
    "UnreadASEDataset",
]

_LOG = logging.getLogger(__name__)
Transform = Callable[[Frame], Frame]
_EMT_ELEMENTS = ("Cu", "Pd", "Au", "Pt", "Al", "Ni", "Ag")


class AtomicDataset(torch.utils.data.Dataset, abc.ABC):
    """A sequence of frames to which transforms are applied in order when a frame is asked for.

    A subclass implements ``__len__`` and `_get_data_list`.

    Args:
        transforms: functions frame -> frame. They get a shallow copy, so they may add fields in
            place, and run at every access.
        energy_units: what energies are in after the transforms, e.g. ``eV``; None if undeclared.
        length_units: likewise for lengths. Forces are energy / length, stress is energy / length^3.

    Raises:
        ConfigError: a unit is unknown.
    """

    def __init__(
        self,
        transforms: Sequence[Transform] = (),
        energy_units: str | None = None,
        length_units: str | None = None,
    ) -> None:
        super().__init__()
        self.transforms = list(transforms)
        self.energy_units = canonical_unit("energy", energy_units)
        self.length_units = canonical_unit("length", length_units)

    def files(self) -> list[str] | None:
        """Return the files whose bytes, with the arguments, decide the frames.

        None, the answer of a class that does not override this, says that it is not known:
        statistics are then computed every time. A data set that is computed has no files.
        """
        return None

    def keys_in_files(self) -> list[str]:
        """Return the names under which the first frame has labels in its file, for messages.

        Empty, the answer of a class that does not override this, says that they are not known.
        """
        return []

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of frames."""

    @abc.abstractmethod
    def _get_data_list(self, indices: list[int]) -> list[Frame]:
        """Return the untransformed frames of `indices`, each in [0, len)."""

    def __str__(self) -> str:
        """Return what messages call this data set."""
        return type(self).__name__

    def __getitem__(self, index: Any) -> Any:
        """Return one frame for an integer, a list of frames for a slice, list or array.

        Raises:
            IndexError: there is no such frame.
            DataError: a transform refuses the frame; the message names the frame.
        """
        if isinstance(index, slice):
            return self.__getitems__(list(range(*index.indices(len(self)))))
        array = np.asarray(index)
        if array.ndim == 0:
            return self.__getitems__([int(array)])[0]
        if array.dtype == bool:
            array = np.flatnonzero(array)
        return self.__getitems__(array.tolist())

    def __getitems__(self, indices: Sequence[int]) -> list[Frame]:
        """Return the transformed frames of `indices`; data loaders ask for a batch this way."""
        wanted = [self._in_range(index) for index in indices]
        frames = self._get_data_list(wanted)
        return [self.transformed(frame, index) for frame, index in zip(frames, wanted, strict=True)]

    def num_atoms(self, indices: Sequence[int]) -> list[int]:
        """Return the numbers of atoms of frames, without applying the transforms."""
        return [num_nodes(frame) for frame in self._get_data_list(list(indices))]

    def num_edges(self, indices: Sequence[int]) -> list[int]:
        """Return the numbers of edges of frames, which the transforms give them."""
        return [num_edges(frame) for index in indices for frame in self.__getitems__([index])]

    def untransformed(self) -> Iterator[Frame]:
        """Yield all frames in order, without applying the transforms."""
        for start in range(0, len(self), 100):
            yield from self._get_data_list(list(range(start, min(start + 100, len(self)))))

    def length_without_reading(self) -> int | None:
        """Return the number of frames, None where all frames would have to be read for it."""
        return len(self)

    def _in_range(self, index: int) -> int:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"frame {index} of {self}, which has {count} frames")
        return index % count

    def transformed(self, frame: Frame, index: int) -> Frame:
        """Return what the transforms make of frame `index`, as `untransformed` yields it.

        Raises:
            DataError: a transform refuses the frame; the message names the frame.
        """
        frame = dict(frame)
        try:
            for transform in self.transforms:
                frame = transform(frame)
        except NequIPError as error:
            raise type(error)(f"frame {index} of {self}: {error}") from error
        return frame


class ASEDataset(AtomicDataset):
    """The frames of a file that ASE reads; the whole file is read at once, frame by frame.

    Args:
        file_path: a file in any format of ``ase.io``.
        transforms: see `AtomicDataset`.
        ase_args: further arguments of ``ase.io.iread``, e.g. ``{format: extxyz}``.
        include_keys: keys of the file's arrays and info to take under their own names. Frames may
            lack some; a key that no frame has is warned of, and refused where the file has another
            one of nearly the same name that nothing asks for.
        exclude_keys: keys to leave out.
        key_mapping: key in the file -> field name; likewise.
        energy_units: see `AtomicDataset`.
        length_units: see `AtomicDataset`.

    Raises:
        MissingFileError: there is no such file.
        DataError: ASE cannot read the file, it holds no frames, a frame is malformed, or a key is
            misspelled.
    """

    _reads_at_once = True

    def __init__(
        self,
        file_path: str,
        transforms: Sequence[Transform] = (),
        ase_args: Mapping[str, Any] | None = None,
        include_keys: Sequence[str] = (),
        exclude_keys: Sequence[str] = (),
        key_mapping: Mapping[str, str] | None = None,
        energy_units: str | None = None,
        length_units: str | None = None,
    ) -> None:
        super().__init__(transforms, energy_units, length_units)
        self.file_path = str(require_file(file_path, "data file"))
        forbidden = sorted({"index", "filename"} & set(ase_args or ()))
        if forbidden:
            raise ConfigError(
                f"ase_args must not contain '{forbidden[0]}': all frames of file_path are read; "
                "choose among them by split_dataset"
            )
        self._ase_args = dict(ase_args or {})
        self._include_keys = list(include_keys)
        self._exclude_keys = list(exclude_keys)
        self._key_mapping = dict(key_mapping or {})
        if self._reads_at_once:
            len(self.frames)

    @functools.cached_property
    def frames(self) -> Sequence[Frame]:
        """The untransformed frames, in a compact form; one is made anew at every access."""
        return PackedFrames(self._read())

    def untransformed(self) -> Iterator[Frame]:
        """Yield all frames in order; a file that was not read before is not kept in memory."""
        return iter(self.frames) if "frames" in vars(self) else self._read()

    def _read(self) -> Iterator[Frame]:
        """Yield the frames of the file one by one, and check its keys in the end."""
        present: set[str] = set()
        index = -1
        for index, atoms in enumerate(_structures(self.file_path, self._ase_args)):
            present |= label_keys(atoms)
            yield self._frame(atoms, index)
        if index < 0:
            raise DataError(f"'{self.file_path}' holds no frames")
        self._check_keys(present)

    def _check_keys(self, present: set[str]) -> None:
        """Refuse a misspelled key; a frame may lack what other frames have."""
        asked = asked_keys(self._key_mapping, self._include_keys, self._exclude_keys)
        if fault := misspelled_key(asked, present, self._exclude_keys):
            raise DataError(f"{self} {fault}")
        if absent := sorted(asked - present):
            _LOG.warning(
                "no frame of %s has %s; the file has %s",
                self,
                " or ".join(f"'{key}'" for key in absent),
                ", ".join(f"'{key}'" for key in sorted(present)) or "no labels",
            )

    def _frame(self, atoms: Atoms, index: int) -> Frame:
        present = label_keys(atoms)
        mapping = {key: field for key, field in self._key_mapping.items() if key in present}
        included = [key for key in self._include_keys if key in present]
        try:
            return from_ase(atoms, mapping, included, self._exclude_keys)
        except (NequIPError, ValueError, TypeError) as error:
            raise DataError(f"frame {index} of '{self.file_path}': {error}") from error

    def __len__(self) -> int:
        """Return the number of frames of the file."""
        return len(self.frames)

    def __str__(self) -> str:
        """Return the file's path in quotes."""
        return f"'{self.file_path}'"

    def files(self) -> list[str]:
        """Return the one file."""
        return [self.file_path]

    def keys_in_files(self) -> list[str]:
        """Return the keys of the arrays, info and results of the file's first structure."""
        from ase.io import iread

        first = next(iter(iread(self.file_path, parallel=False, **self._ase_args)), None)
        return [] if first is None else sorted(label_keys(first))

    def _get_data_list(self, indices: list[int]) -> list[Frame]:
        return [self.frames[index] for index in indices]


class UnreadASEDataset(ASEDataset):
    """An `ASEDataset` whose file is read when its frames are first asked for."""

    _reads_at_once = False

    def length_without_reading(self) -> int | None:
        """Return the number of frames, of a file that is not read if it is an xyz file."""
        return len(self) if "frames" in vars(self) else _frames_of_xyz(self.file_path)


def _frames_of_xyz(path: str) -> int | None:
    """Return the number of frames by the lines of a file, None if it is no xyz file.

    Each frame is a line with the number of atoms, a comment, and a line an atom.
    """
    count = 0
    try:
        with Path(path).open(encoding="utf-8") as file:
            for line in filter(str.strip, file):
                lines = int(line) + 1
                if len(list(itertools.islice(file, lines))) != lines:
                    return None
                count += 1
    except (ValueError, OSError):
        return None
    return count


def _structures(path: str, ase_args: dict[str, Any]) -> Iterator[Atoms]:
    from ase.io import iread

    try:
        yield from iread(filename=path, parallel=False, **ase_args)
    # ASE's readers raise whatever their parsing stumbles over.
    except Exception as error:
        raise DataError(
            f"ASE cannot read '{path}' ({type(error).__name__}: {error}); if the format is not "
            "the one its name suggests, give it as ase_args: {format: ...}"
        ) from error


class EMTTestDataset(AtomicDataset):
    """Rattled fcc metal with the energy, forces and stress of ASE's effective-medium potential.

    Args:
        transforms: see `AtomicDataset`.
        supercell: repetitions of the orthorhombic fcc cell along its three axes.
        sigma: standard deviation of the Gaussian displacements, Angstrom.
        element: one of Cu, Pd, Au, Pt, Al, Ni, Ag.
        num_frames: number of frames.
        seed: seed of the displacements.
        energy_units: eV, unless transforms change them.
        length_units: Angstrom, unless transforms change them.
    """

    def __init__(
        self,
        transforms: Sequence[Transform] = (),
        supercell: tuple[int, int, int] = (4, 4, 4),
        sigma: float = 0.1,
        element: str = "Cu",
        num_frames: int = 10,
        seed: int = 123456,
        energy_units: str | None = "eV",
        length_units: str | None = "Angstrom",
    ) -> None:
        super().__init__(transforms, energy_units, length_units)
        if element not in _EMT_ELEMENTS:
            raise ConfigError(
                f"EMT has no parameters for '{element}', only for {', '.join(_EMT_ELEMENTS)}"
            )
        if num_frames < 1:
            raise ConfigError(f"num_frames must be at least 1, got {num_frames}")
        self.frames = _emt_frames(tuple(supercell), sigma, element, num_frames, seed)

    def files(self) -> list[str]:
        """Return that there are none: the arguments say everything."""
        return []

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames)

    def _get_data_list(self, indices: list[int]) -> list[Frame]:
        return [self.frames[index] for index in indices]


def _emt_frames(
    supercell: tuple[int, ...], sigma: float, element: str, count: int, seed: int
) -> list[Frame]:
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator

    generator = np.random.default_rng(seed)
    perfect = bulk(element, "fcc", orthorhombic=True).repeat(supercell)
    calculator = EMT()
    frames = []
    for _ in range(count):
        atoms = perfect.copy()
        atoms.positions += generator.normal(scale=sigma, size=(len(atoms), 3))
        atoms.calc = calculator
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        stress = atoms.get_stress(voigt=True)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
        frames.append(from_ase(atoms))
    return frames
