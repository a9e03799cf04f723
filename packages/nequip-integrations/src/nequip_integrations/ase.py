"""NequIP models as ASE calculators. Needs the extra ``nequip-integrations[ase]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from nequip_core.compile_targets import ASE
from nequip_core.errors import ConfigError, DataError, MissingDependencyError, closest
from nequip_core.frames import Frame
from nequip_core.neighbors import DEFAULT_BACKEND
from nequip_core.saved_model import SOLE_MODEL
from nequip_integrations.adapter import OPENING, ModelAdapter
from nequip_integrations.loading import DEFAULT_SKIN
from nequip_integrations.preparation import Transform

try:
    from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

    from nequip_integrations.ase_structures import ase_results, input_frame
except ImportError as error:
    raise MissingDependencyError(
        f"ASE does not import ({error}): pip install 'nequip-integrations[ase]'"
    ) from error

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["DEFAULT_SKIN", "NequIPCalculator"]

# ASE's base class takes any further keyword as a parameter of the calculation, a misspelling too.
_ASE_ARGUMENTS = ("restart", "ignore_bad_restart_file", "label", "atoms", "directory")
_OWN_ARGUMENTS = ("energy_units_to_eV", "length_units_to_A", "transforms", *OPENING)


class NequIPCalculator(ModelAdapter, Calculator):
    """An ASE calculator around a model.

    Results are in ASE's units: energies in eV, forces in eV/A, stress in eV/A^3 in Voigt order
    xx, yy, zz, yz, xz, xy, positive under tension. There is a stress only where the cell has a
    volume. ``free_energy`` equals ``energy``; ``energies`` are the model's atomic energies.

    Given a path or a reference, the model runs in the best way that there is: compiled where that
    is possible, eager otherwise; attribute ``way`` says which and why in one line, see
    `nequip_core.runtime`. `from_compiled_model`, `from_package` and `from_checkpoint` take one kind
    of file and run it as it is.

    Args:
        model: a compiled file, package or checkpoint, or a reference
            ``nequip.net:<group>/<model>:<version>``; or a model that is loaded already, compiled or
            not, ``dict -> dict``. A module is put into eval mode and its parameters are set to need
            no gradient.
        device: where to run.
        energy_units_to_eV: eV in one energy unit of the model; default: what its file declares,
            else 1.
        length_units_to_A: Angstrom in one length unit of the model; default likewise. Positions and
            cell are converted to the model's unit, forces and stress back.
        transforms: what turns a structure, in the model's length unit, into the model's input; for
            a loaded model, those of a file are made from it.
        chemical_species_to_atom_type_map: this and what follows is for files only. Chemical
            symbol -> type name, needed where type names are not chemical symbols.
        neighborlist_backend: see `from_compiled_model`.
        neighborlist_skin: see `from_compiled_model`, Angstrom.
        model_name: which model of a package or checkpoint.
        modifiers: names of modifiers to apply, in order.
        trust_code: True consents to running the code that the file carries, False refuses it;
            None: see `nequip_core.archive.loading.load_package`.
        allow_tf32: multiply matrices in TF32 on GPUs.
        compile: False runs a package or checkpoint without compilation.
        require_compiled: stop with a `CompileError` where the model cannot run compiled.
        **kwargs: of ASE's ``Calculator``.

    Raises:
        ConfigError: an argument is unknown or does not fit the model, or a unit is not positive, or
            there is no such device. Files raise what `nequip_core.runtime.open_model` says.
    """

    compile_target = ASE

    # A list without ClassVar, as ASE declares it.
    implemented_properties = ["energy", "energies", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(
        self,
        model: Any,
        device: str | torch.device = "cpu",
        energy_units_to_eV: float | None = None,
        length_units_to_A: float | None = None,
        transforms: Sequence[Transform] = (),
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
        opening: dict[str, Any] = {
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
        _require_known(kwargs, type(self).__name__)
        super().__init__(**kwargs)
        self.adopt(model, device, transforms, energy_units_to_eV, length_units_to_A, opening)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute every property at once into ``results``.

        Raises:
            UnknownSpeciesError: the structure has a species that the model does not know.
            DataError: the structure is empty or not finite, or the model returned NaN.
            ModelError: there is too little memory.
        """
        with self._lock:
            super().calculate(atoms, list(properties), list(system_changes))
            if self.atoms is None:
                raise DataError("there is no structure to compute")
            self.results = {}  # an error below leaves no results of another structure
            out = self.call_model(self.atoms_to_data(self.atoms))
            # No volume: a cell vector is missing. (Coplanar vectors give no neighbor list.)
            self.results = ase_results(self, out, has_volume=self.atoms.cell.volume > 0.0)
            self.save_extra_outputs(out)

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """Return a property, see ASE. Several threads may ask; they are served one by one.

        Raises:
            PropertyNotImplementedError: it is not implemented, or is a stress without a volume.
        """
        try:
            # Held until the result is read: another thread's structure would take its place.
            with self._lock:
                return super().get_property(name, atoms, allow_calculation)
        except PropertyNotImplementedError as error:
            if name == "stress" and "energy" in self.results:
                raise PropertyNotImplementedError(
                    "there is no stress, because the cell has no volume (or the model computes "
                    "none)"
                ) from error
            raise

    def atoms_to_data(self, atoms: Atoms) -> Frame:
        """Return the model's input, on the device.

        Raises:
            DataError: there are no atoms, or positions or cell are not finite.
            UnknownSpeciesError: a species is not known to the model.
        """
        return self.model_input(input_frame(self, atoms))

    def save_extra_outputs(self, out: Frame) -> None:
        """Do nothing; override to put further outputs of the model into ``results``."""


def _require_known(arguments: dict[str, Any], name: str) -> None:
    """Check the names of arguments that go to ASE.

    Raises:
        ConfigError: ASE's class has no such argument.
    """
    for argument in arguments:
        if argument not in _ASE_ARGUMENTS:
            known = [*_OWN_ARGUMENTS, *_ASE_ARGUMENTS]
            raise ConfigError(f"{name} has no argument '{argument}'{closest(argument, known)}")
