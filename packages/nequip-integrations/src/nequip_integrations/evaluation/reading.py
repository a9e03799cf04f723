"""Structures of files, one after the other, with their labels."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nequip_core.ase_conversion import from_ase
from nequip_core.errors import DataError, FileFormatError, NequIPError
from nequip_core.fields import FORCE_KEY, STRESS_KEY, TOTAL_ENERGY_KEY
from nequip_core.files import require_file

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["CONFIG_TYPE_KEY", "LABELS", "Sample", "StructureFiles"]

CONFIG_TYPE_KEY = "config_type"
"""Key in ``atoms.info`` of the kind of a structure."""

LABELS = (TOTAL_ENERGY_KEY, FORCE_KEY, STRESS_KEY)
"""Fields that are compared."""

_ASE_KEYS = {TOTAL_ENERGY_KEY: "energy", FORCE_KEY: "forces", STRESS_KEY: "stress"}


@dataclass(frozen=True)
class Sample:
    """One structure of a file."""

    atoms: Atoms
    labels: Mapping[str, np.ndarray]
    """Field -> label in eV and Angstrom: energy (1,), forces (N, 3), stress (3, 3); those there."""
    config_type: str | None
    """Kind of the structure, None where it states none."""
    file: str
    index: int
    """Place in the file, from 0 on."""

    @property
    def place(self) -> str:
        """Where it comes from, for messages."""
        return f"structure {self.index} of '{self.file}'"


class StructureFiles:
    """The structures of several files; iterating reads one at a time.

    Args:
        files: any that ASE reads.
        keys: field -> key of its label, where that is not ASE's own.
        config_type_key: key in ``info`` of the kind of a structure.

    Raises:
        MissingFileError: a file does not exist.
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike[str]],
        keys: Mapping[str, str] | None = None,
        config_type_key: str = CONFIG_TYPE_KEY,
    ) -> None:
        self.files = [require_file(file, "file of structures") for file in files]
        self._mapping = {key: field for field, key in (keys or {}).items()}
        # A label under a key of its own is meant even where ASE's is there as well.
        self._excluded = [name for field, name in _ASE_KEYS.items() if field in (keys or {})]
        self._excluded = [name for name in self._excluded if name not in self._mapping]
        self._config_type_key = config_type_key
        self._open: Any = None
        self._done = 0
        self.size = sum(file.stat().st_size for file in self.files)
        """Bytes of all files."""

    @property
    def position(self) -> int | None:
        """Bytes that have been read, None while that is not known."""
        if self._open is None:
            return None
        return self._done + int(self._open.tell())

    def __iter__(self) -> Iterator[Sample]:
        """Yield the structures in order.

        Raises:
            FileFormatError: a file cannot be read.
            DataError: the labels of a structure do not fit it.
        """
        self._done = 0
        for file in self.files:
            yield from self._samples(file)
            self._done += file.stat().st_size

    def _samples(self, file: Path) -> Iterator[Sample]:
        for index, atoms in enumerate(self._structures(file)):
            if len(atoms) == 0:
                raise DataError(f"structure {index} of '{file}' has no atoms")
            try:
                frame = from_ase(atoms, self._mapping, exclude_keys=self._excluded)
            except NequIPError as error:
                raise DataError(f"structure {index} of '{file}': {error}") from error
            labels = {key: frame[key].numpy() for key in LABELS if key in frame}
            if TOTAL_ENERGY_KEY in labels:
                labels[TOTAL_ENERGY_KEY] = labels[TOTAL_ENERGY_KEY].reshape(1)
            if STRESS_KEY in labels:
                labels[STRESS_KEY] = labels[STRESS_KEY].reshape(3, 3)
            kind = atoms.info.get(self._config_type_key)
            yield Sample(atoms, labels, None if kind is None else str(kind), str(file), index)

    def _structures(self, file: Path) -> Iterator[Atoms]:
        """Yield what is in a file.

        Raises:
            FileFormatError: ASE cannot read it.
        """
        from ase.io import iread
        from ase.io.formats import filetype

        index = 0
        try:
            if filetype(str(file)) == "extxyz" and file.suffix in (".xyz", ".extxyz"):
                with file.open("rb") as raw, io.TextIOWrapper(raw, encoding="utf-8") as stream:
                    self._open = raw  # the text stream does not tell while it is read by lines
                    for atoms in iread(stream, ":", format="extxyz"):
                        yield atoms
                        index += 1
            else:
                for atoms in iread(str(file), ":"):
                    yield atoms
                    index += 1
        except NequIPError:
            raise
        except Exception as error:  # a reader of ASE raises anything
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise FileFormatError(
                f"cannot read structure {index} of '{file}' ({type(error).__name__}: {reason}); "
                "it must be a file that ASE reads, extended XYZ for instance"
            ) from error
        finally:
            self._open = None
