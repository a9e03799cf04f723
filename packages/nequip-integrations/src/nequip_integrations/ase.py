"""NequIP models as ASE calculators. Needs the extra ``nequip-integrations[ase]``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from nequip_core.compiled import load_compiled_model
from nequip_core.cutoffs import cutoff_table_from_text
from nequip_core.errors import ConfigError, DataError, closest
from nequip_core.fields import (
    ATOMIC_NUMBERS_KEY,
    CELL_KEY,
    FORCE_KEY,
    PBC_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_core.files import require_suffix
from nequip_core.fingerprint import available_device
from nequip_core.frames import Frame, from_dict, to_
from nequip_core.neighbors import DEFAULT_BACKEND
from nequip_core.neighbors import neighborlist_backend as backend_of
from nequip_core.saved_model import SOLE_MODEL, load_saved_model, select_model
from nequip_core.transforms import NeighborListTransform
from nequip_integrations.preparation import Transform, input_transforms

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["DEFAULT_SKIN", "NequIPCalculator"]

DEFAULT_SKIN = 0.5
"""Skin of the neighbor list that a calculator keeps, Angstrom."""

# ASE's base class takes any further keyword as a parameter of the calculation, a misspelling too.
_ASE_ARGUMENTS = ("restart", "ignore_bad_restart_file", "label", "atoms", "directory")
_OWN_ARGUMENTS = (
    "energy_units_to_eV",
    "length_units_to_A",
    "transforms",
    "chemical_species_to_atom_type_map",
    "neighborlist_backend",
    "neighborlist_skin",
    "model_name",
    "trust_code",
)


class NequIPCalculator(Calculator):
    """An ASE calculator around a model.

    Results are in ASE's units: energies in eV, forces in eV/A, stress in eV/A^3 in Voigt order
    xx, yy, zz, yz, xz, xy, positive under tension. There is a stress only where the cell has a
    volume. ``free_energy`` equals ``energy``; ``energies`` are the model's atomic energies.

    Usually made by `from_compiled_model`, `from_package` or `from_checkpoint`.

    Args:
        model: graph model or compiled model, ``dict -> dict``. A module is put into eval mode and
            its parameters are set to need no gradient.
        device: where to run.
        energy_units_to_eV: eV in one energy unit of the model.
        length_units_to_A: Angstrom in one length unit of the model; positions and cell are
            converted to the model's unit, forces and stress back.
        transforms: what turns a structure, in the model's length unit, into the model's input.
        **kwargs: of ASE's ``Calculator``.

    Raises:
        ConfigError: an argument is unknown, or a unit is not positive, or there is no such device.
    """

    # A list without ClassVar, as ASE declares it.
    implemented_properties = ["energy", "energies", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(
        self,
        model: Any,
        device: str | torch.device = "cpu",
        energy_units_to_eV: float = 1.0,
        length_units_to_A: float = 1.0,
        transforms: Sequence[Transform] = (),
        **kwargs: Any,
    ) -> None:
        for name in kwargs:
            if name not in _ASE_ARGUMENTS:
                known = [*_OWN_ARGUMENTS, *_ASE_ARGUMENTS]
                raise ConfigError(
                    f"{type(self).__name__} has no argument '{name}'{closest(name, known)}"
                )
        super().__init__(**kwargs)
        for name, value in (
            ("energy_units_to_eV", energy_units_to_eV),
            ("length_units_to_A", length_units_to_A),
        ):
            _require_positive(name, value)
        self.device = available_device(device)
        if isinstance(model, torch.nn.Module):
            model = model.eval().requires_grad_(False).to(self.device)
        self.model = model
        self.energy_units_to_eV = float(energy_units_to_eV)
        self.length_units_to_A = float(length_units_to_A)
        self.transforms = list(transforms)
        # A list that is made on the device is not copied there.
        self._inputs_on_device = self.device.type == "cuda" and any(
            backend_of(transform.backend).supports_cuda
            for transform in self.transforms
            if isinstance(transform, NeighborListTransform)
        )
        if self._inputs_on_device:
            for transform in self.transforms:
                if isinstance(transform, torch.nn.Module):
                    transform.to(self.device)

    @classmethod
    def from_compiled_model(
        cls,
        compile_path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        chemical_species_to_atom_type_map: Mapping[str, str] | bool | None = None,
        neighborlist_backend: str = DEFAULT_BACKEND,
        neighborlist_skin: float = DEFAULT_SKIN,
        **kwargs: Any,
    ) -> NequIPCalculator:
        """Return the calculator of a compiled model, ``.nequip.pth``, or ``.nequip.pt2`` for ASE.

        Args:
            compile_path: the compiled model.
            device: where to run; of the kind the model was compiled for.
            chemical_species_to_atom_type_map: chemical symbol -> type name, needed where type
                names are not chemical symbols.
            neighborlist_backend: name of a backend, see `nequip_core.neighbors`; ``torch`` makes
                the list on the device.
            neighborlist_skin: how much further than the cutoff the neighbor list reaches that is
                kept from one structure to the next, Angstrom. Results do not depend on it; 0
                makes a new list at every step.
            **kwargs: of the class, other than `transforms`.

        Raises:
            MissingFileError: there is no such file.
            FileFormatError: the file is not a compiled model that runs here.
            ConfigError: the device, the species map or the file's target does not fit.
        """
        model = load_compiled_model(compile_path, device)
        needed = (TOTAL_ENERGY_KEY, FORCE_KEY)
        if any(name not in model.outputs for name in needed):
            raise ConfigError(
                f"'{compile_path}' returns {list(model.outputs)}, and ASE needs {list(needed)}: "
                "compile with --target ase"
            )
        transforms = _transforms(
            model,
            model.per_edge_type_cutoff,
            chemical_species_to_atom_type_map,
            neighborlist_backend,
            neighborlist_skin,
            kwargs,
        )
        return cls(model, model.device, transforms=transforms, **kwargs)

    @classmethod
    def from_package(
        cls,
        package_path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        chemical_species_to_atom_type_map: Mapping[str, str] | bool | None = None,
        neighborlist_backend: str = DEFAULT_BACKEND,
        neighborlist_skin: float = DEFAULT_SKIN,
        model_name: str = SOLE_MODEL,
        trust_code: bool | None = None,
        **kwargs: Any,
    ) -> NequIPCalculator:
        """Return the calculator of a ``.nequip.zip`` package, run without compilation.

        Args:
            package_path: the package.
            device: where to run.
            chemical_species_to_atom_type_map: see `from_compiled_model`.
            neighborlist_backend: see `from_compiled_model`.
            neighborlist_skin: see `from_compiled_model`.
            model_name: which model of the package.
            trust_code: True consents to running the code that the file carries, False refuses it;
                None: see `nequip_core.archive.loading.load_package`.
            **kwargs: of the class, other than `transforms`.

        Raises:
            MissingFileError: there is no such file.
            FileFormatError: the file is not a package.
            ConfigError: the species map does not fit, or there is no such model.
            TrustError: code in the file may not run, and it cannot be loaded without.
        """
        return cls._from_saved_model(
            require_suffix(package_path, ".nequip.zip", "package"),
            device,
            chemical_species_to_atom_type_map,
            model_name=model_name,
            neighborlist_backend=neighborlist_backend,
            neighborlist_skin=neighborlist_skin,
            trust_code=trust_code,
            **kwargs,
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint_path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        chemical_species_to_atom_type_map: Mapping[str, str] | bool | None = None,
        neighborlist_backend: str = DEFAULT_BACKEND,
        neighborlist_skin: float = DEFAULT_SKIN,
        model_name: str = SOLE_MODEL,
        trust_code: bool | None = None,
        **kwargs: Any,
    ) -> NequIPCalculator:
        """Return the calculator of a ``.ckpt`` checkpoint; needs nequip-model.

        Args:
            checkpoint_path: the checkpoint.
            device: where to run.
            chemical_species_to_atom_type_map: see `from_compiled_model`.
            neighborlist_backend: see `from_compiled_model`.
            neighborlist_skin: see `from_compiled_model`.
            model_name: which model of the checkpoint.
            trust_code: True consents to running the code that the file carries, False refuses it;
                None: see `nequip_core.archive.loading.load_package`.
            **kwargs: of the class, other than `transforms`.

        Raises:
            MissingFileError: there is no such file.
            FileFormatError: the file is not a checkpoint of this project.
            MissingDependencyError: nequip-model is not installed.
            ConfigError: the species map does not fit, or there is no such model.
            TrustError: code in the file may not run, and it cannot be loaded without.
        """
        return cls._from_saved_model(
            require_suffix(checkpoint_path, ".ckpt", "checkpoint"),
            device,
            chemical_species_to_atom_type_map,
            model_name=model_name,
            neighborlist_backend=neighborlist_backend,
            neighborlist_skin=neighborlist_skin,
            trust_code=trust_code,
            **kwargs,
        )

    @classmethod
    def _from_saved_model(
        cls,
        model_path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        chemical_species_to_atom_type_map: Mapping[str, str] | bool | None = None,
        allow_tf32: bool = False,
        model_name: str = SOLE_MODEL,
        compile_mode: str = "eager",
        neighborlist_backend: str = DEFAULT_BACKEND,
        neighborlist_skin: float = DEFAULT_SKIN,
        trust_code: bool | None = None,
        **kwargs: Any,
    ) -> NequIPCalculator:
        """Return the calculator of a checkpoint or package; a name that other tools know.

        Raises:
            ConfigError: TF32 or a compile mode is asked for; see also `from_package`.
        """
        if allow_tf32 or compile_mode != "eager":
            raise ConfigError(
                "saved models run as they are: allow_tf32 must be False and compile_mode 'eager', "
                f"got {allow_tf32!r} and {compile_mode!r}; nequip-compile makes a faster model"
            )
        model = select_model(load_saved_model(model_path, trust_code), model_name)
        text = model.metadata.get("per_edge_type_cutoff")  # type: ignore[union-attr, operator]
        transforms = _transforms(
            model,
            cutoff_table_from_text(text, len(model.type_names)),  # type: ignore[arg-type]
            chemical_species_to_atom_type_map,
            neighborlist_backend,
            neighborlist_skin,
            kwargs,
        )
        return cls(model, device, transforms=transforms, **kwargs)

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
        """
        super().calculate(atoms, list(properties), list(system_changes))
        if self.atoms is None:
            raise DataError("there is no structure to compute")
        out = self.call_model(self.atoms_to_data(self.atoms))
        # No volume: a cell vector is missing. (Coplanar vectors give no neighbor list.)
        self.results = self._results(out, has_volume=self.atoms.cell.volume > 0.0)
        self.save_extra_outputs(out)

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """Return a property, see ASE.

        Raises:
            PropertyNotImplementedError: it is not implemented, or is a stress without a volume.
        """
        try:
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
        if len(atoms) == 0:
            raise DataError("the structure has no atoms")
        data = from_dict(
            {
                POSITIONS_KEY: atoms.get_positions() / self.length_units_to_A,
                CELL_KEY: np.asarray(atoms.cell) / self.length_units_to_A,
                PBC_KEY: atoms.get_pbc(),
                ATOMIC_NUMBERS_KEY: atoms.get_atomic_numbers(),
            }
        )
        if self._inputs_on_device:
            data = to_(data, self.device)
        for transform in self.transforms:
            data = transform(data)
        return to_(data, self.device)

    def call_model(self, data: Frame) -> Frame:
        """Return the model's output for its input."""
        return self.model(data)

    def save_extra_outputs(self, out: Frame) -> None:
        """Do nothing; override to put further outputs of the model into ``results``."""

    def _results(self, out: Frame, has_volume: bool) -> dict[str, Any]:
        energy, length = self.energy_units_to_eV, self.length_units_to_A
        names = [TOTAL_ENERGY_KEY, PER_ATOM_ENERGY_KEY, FORCE_KEY]
        if has_volume:
            names.append(STRESS_KEY)
        arrays = {key: out[key].detach().cpu().numpy() for key in names if key in out}
        for key, array in arrays.items():
            _require_finite(key, array)
        total = float(arrays[TOTAL_ENERGY_KEY].reshape(-1)[0]) * energy
        results: dict[str, Any] = {"energy": total, "free_energy": total}
        if PER_ATOM_ENERGY_KEY in arrays:
            results["energies"] = arrays[PER_ATOM_ENERGY_KEY].reshape(-1) * energy
        if FORCE_KEY in arrays:
            results["forces"] = arrays[FORCE_KEY] * (energy / length)
        if STRESS_KEY in arrays:
            stress = arrays[STRESS_KEY].reshape(3, 3) * (energy / length**3)
            results["stress"] = full_3x3_to_voigt_6_stress(stress)
        return results


def _transforms(
    model: Any,
    cutoffs: list[list[float]] | None,
    species: Mapping[str, str] | bool | None,
    backend: str,
    skin: float,
    arguments: dict[str, Any],
) -> list[Transform]:
    if "transforms" in arguments:
        raise ConfigError(
            "transforms are made from the model here; to give your own, use NequIPCalculator(model,"
            " transforms=...)"
        )
    unit = arguments.get("length_units_to_A", 1.0)
    _require_positive("length_units_to_A", unit)
    skin = skin / unit  # the model's unit of length
    return input_transforms(model.type_names, float(model.r_max), cutoffs, species, backend, skin)


def _require_positive(name: str, value: float) -> None:
    """Check a unit.

    Raises:
        ConfigError: it is not a positive number.
    """
    if not (np.isfinite(value) and value > 0.0):
        raise ConfigError(f"{name} must be a positive number, got {value!r}")


def _require_finite(key: str, array: np.ndarray) -> None:
    """Check a model's output.

    Raises:
        DataError: it holds NaN or infinity.
    """
    if np.isfinite(array).all():
        return
    row = int(np.argwhere(~np.isfinite(array))[0, 0])
    where = f" of atom {row}" if key in (FORCE_KEY, PER_ATOM_ENERGY_KEY) else ""
    raise DataError(
        f"the model returned a {key}{where} that is not a finite number; atoms on top of each "
        "other, or weights that are NaN, do that"
    )
