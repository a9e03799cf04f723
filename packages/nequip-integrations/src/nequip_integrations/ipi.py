"""NequIP models as potentials of i-PI. Needs the extra ``nequip-integrations[ipi]``.

In an input file of i-PI, without a socket, ``nequip-ipi --where`` printing the path of this file::

    <ffdirect name='nequip'>
      <pes>custom</pes> <pes_path>PATH OF THIS FILE</pes_path>
      <parameters>{model: alloy.nequip.zip, structure: init.xyz}</parameters>
    </ffdirect>

Over a socket: ``nequip-ipi alloy.nequip.zip init.xyz --unix --address nequip``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nequip_core.compile_targets import ASE
from nequip_core.errors import DataError, FileFormatError, MissingFileError
from nequip_core.fields import (
    ATOMIC_NUMBERS_KEY,
    CELL_KEY,
    FORCE_KEY,
    PBC_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_core.frames import from_dict
from nequip_core.neighbors import DEFAULT_BACKEND
from nequip_core.saved_model import SOLE_MODEL
from nequip_core.species import atomic_number
from nequip_integrations.absent import absent
from nequip_integrations.adapter import ModelAdapter, require_finite
from nequip_integrations.loading import DEFAULT_SKIN

if TYPE_CHECKING:
    from ipi.pes.dummy import Dummy_driver
    from ipi.utils.io import read_file
    from ipi.utils.units import unit_to_internal
else:
    try:
        from ipi.pes.dummy import Dummy_driver
        from ipi.utils.io import read_file
        from ipi.utils.units import unit_to_internal
    except ImportError as error:
        Dummy_driver = absent("i-PI", "ipi", error)

__all__ = ["NequIPDriver", "species_of_file"]

# How i-PI finds the class, by reading the text of this file.
__DRIVER_NAME__ = "nequip"
__DRIVER_CLASS__ = "NequIPDriver"

_FORMATS = {".xyz": "xyz", ".pdb": "pdb", ".json": "json"}


class NequIPDriver(ModelAdapter, Dummy_driver):
    """A potential of i-PI: Bohr and Hartree in, energy, forces and virial in atomic units out.

    i-PI sends positions without species: these are those of a structure file, which must have the
    atoms in the same order, as the file has that i-PI starts from.

    Args:
        model: a path or reference, or a loaded model, see `ase.NequIPCalculator`.
        structure: file in a format of i-PI (``.xyz``, ``.pdb``), or the chemical symbols.
        device: where to run.
        periodic: False for molecules in a box that means nothing; they have no virial.
        energy_units_to_eV: eV in one energy unit of the model; default: what its file declares,
            else 1.
        length_units_to_A: Angstrom in one length unit of the model; default likewise.
        transforms: for a model that is loaded already.
        verbose: of i-PI.
        chemical_species_to_atom_type_map: this and what follows: see `ase.NequIPCalculator`.
        neighborlist_backend: name of a backend.
        neighborlist_skin: Angstrom. Beads of a ring polymer take turns: 0 may be faster there.
        model_name: which model of a package or checkpoint.
        modifiers: names of modifiers to apply.
        trust_code: consent to running code of the file.
        allow_tf32: multiply matrices in TF32 on GPUs.
        compile: False runs a package or checkpoint without compilation.
        require_compiled: stop where the model cannot run compiled.
        **kwargs: of i-PI's ``Dummy_driver``.

    Raises:
        ConfigError: an argument does not fit. Files raise what
            `nequip_core.runtime.open_model` says.
        MissingFileError: there is no such structure file.
        FileFormatError: i-PI cannot read it.
        UnknownSpeciesError: it has something else than chemical elements.
    """

    compile_target = ASE

    def __init__(
        self,
        model: Any,
        structure: str | os.PathLike[str] | Sequence[str],
        device: str | torch.device = "cpu",
        periodic: bool = True,
        energy_units_to_eV: float | None = None,
        length_units_to_A: float | None = None,
        transforms: Sequence[Any] = (),
        verbose: bool = False,
        *,
        chemical_species_to_atom_type_map: Mapping[str, str] | bool | None = None,
        neighborlist_backend: str = DEFAULT_BACKEND,
        neighborlist_skin: float = DEFAULT_SKIN,
        model_name: str = SOLE_MODEL,
        modifiers: Sequence[str] = (),
        trust_code: bool | None = None,
        allow_tf32: bool = False,
        compile: bool = True,  # noqa: A002
        require_compiled: bool = False,
        **kwargs: Any,
    ) -> None:
        opening = {
            "chemical_species_to_atom_type_map": chemical_species_to_atom_type_map,
            "neighborlist_backend": neighborlist_backend,
            "neighborlist_skin": neighborlist_skin,
            "model_name": model_name,
            "modifiers": tuple(modifiers),
            "trust_code": trust_code,
            "allow_tf32": allow_tf32,
            "compile": compile,
            "require_compiled": require_compiled,
        }
        if isinstance(structure, str | os.PathLike):
            structure = species_of_file(structure)
        self.numbers = np.array([atomic_number(symbol) for symbol in structure])
        self.periodic = bool(periodic)
        self.adopt(model, device, transforms, energy_units_to_eV, length_units_to_A, opening)
        Dummy_driver.__init__(self, verbose, **kwargs)

    def compute_structure(
        self, cell: np.ndarray, pos: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray, str]:
        """Return energy, forces (N, 3), virial (3, 3) and no extras, in atomic units.

        Args:
            cell: (3, 3), its vectors are columns, Bohr.
            pos: (N, 3), Bohr.

        Raises:
            UnknownSpeciesError: the structure has a species that the model does not know.
            DataError: the number of atoms is another, or the model returned NaN.
            ModelError: there is too little memory.
        """
        positions = np.asarray(pos, dtype=float).reshape(-1, 3)
        if len(positions) != len(self.numbers):
            raise DataError(
                f"i-PI sent {len(positions)} atoms, the structure file has {len(self.numbers)}"
            )
        length = self.length_units_to_A * unit_to_internal("length", "angstrom", 1.0)
        energy = self.energy_units_to_eV * unit_to_internal("energy", "electronvolt", 1.0)
        box = np.asarray(cell, dtype=float).T if self.periodic else np.zeros((3, 3))
        data = from_dict(
            {
                POSITIONS_KEY: positions / length,
                CELL_KEY: box / length,
                PBC_KEY: [self.periodic] * 3,
                ATOMIC_NUMBERS_KEY: self.numbers,
            }
        )
        out = self.call_model(self.model_input(data))
        names = [TOTAL_ENERGY_KEY, FORCE_KEY, *([STRESS_KEY] if self.periodic else [])]
        if self.periodic and STRESS_KEY not in out:
            raise DataError("the model computes no stress; periodic=False goes without")
        found = {key: out[key].detach().double().cpu().numpy() for key in names}
        for key, array in found.items():
            require_finite(key, array)
        virial = np.zeros((3, 3))
        if self.periodic:
            volume = abs(np.linalg.det(box / length))
            virial = -found[STRESS_KEY].reshape(3, 3) * (volume * energy)
        total = float(found[TOTAL_ENERGY_KEY].reshape(-1)[0]) * energy
        return total, found[FORCE_KEY] * (energy / length), virial, ""


def species_of_file(path: str | os.PathLike[str]) -> list[str]:
    """Return the chemical symbols of a structure file, read as i-PI reads it.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: i-PI cannot read it.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"there is no structure file '{file}'")
    kind = _FORMATS.get(file.suffix.lower())
    if kind is None:
        raise FileFormatError(f"'{file}' must end in one of {', '.join(_FORMATS)}")
    try:
        with file.open() as text:
            atoms = read_file(kind, text)["atoms"]
    except Exception as error:  # whatever a reader stumbles over
        raise FileFormatError(f"i-PI cannot read '{file}' as {kind}: {error}") from error
    return [str(name) for name in atoms.names]
