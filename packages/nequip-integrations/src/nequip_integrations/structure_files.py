"""One structure from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nequip_core.errors import DataError, FileFormatError
from nequip_core.files import require_file

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["first_structure"]


def first_structure(path: str) -> Atoms:
    """Return the first structure of a file in any format of ASE, without its results.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: ASE cannot read it.
        DataError: it has no atoms.
    """
    from ase.io import read

    file = require_file(path, "file of a structure")
    try:
        atoms: Any = read(str(file), index=0)
    except Exception as error:  # a reader of ASE raises anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise FileFormatError(
            f"cannot read a structure from '{file}' ({type(error).__name__}: {reason}); it must be "
            "a file that ASE reads: cif, vasp, extended XYZ, ..."
        ) from error
    if len(atoms) == 0:
        raise DataError(f"the structure in '{file}' has no atoms")
    atoms.calc = None
    found: Atoms = atoms
    return found
