"""NequIP models as forces of OpenMM. Needs the extra ``nequip-integrations[openmm]``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nequip_core.compile_targets import ASE
from nequip_core.errors import ConfigError, DataError
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    ATOMIC_NUMBERS_KEY,
    CELL_KEY,
    FORCE_KEY,
    PBC_KEY,
    POSITIONS_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_core.frames import from_dict
from nequip_core.neighbors import DEFAULT_BACKEND
from nequip_core.saved_model import SOLE_MODEL
from nequip_core.transforms import ChemicalSpeciesToAtomTypeMapper
from nequip_integrations.absent import absent
from nequip_integrations.adapter import ModelAdapter, require_finite
from nequip_integrations.loading import DEFAULT_SKIN
from nequip_integrations.preparation import Transform

if TYPE_CHECKING:
    import openmm
    from openmm.app import Topology

    Engine = object
else:
    try:
        import openmm
    except ImportError as error:
        Engine = absent("OpenMM", "openmm", error)
    else:
        Engine = object

__all__ = ["KJ_PER_MOL_IN_EV", "NequIPForce"]

KJ_PER_MOL_IN_EV = 1.602176634e-19 * 6.02214076e23 / 1000.0
"""kJ/mol in one eV: exact, by the definition of the mole and the coulomb."""

_ANGSTROM_PER_NM = 10.0


class NequIPForce(ModelAdapter, Engine):
    """A model that makes forces for OpenMM systems; ``force = NequIPForce(path).add_to(system, topology)``.

    OpenMM calls it with nanometres and gets kJ/mol and kJ/mol/nm. The forces of several systems
    may come from one object. A force is written by ``XmlSerializer`` with the name of the model's
    file, which is opened again where the system is read.

    Args:
        model: a path or reference, or a loaded model, see `ase.NequIPCalculator`.
        device: where the model runs; need not be that of OpenMM's platform.
        energy_units_to_eV: eV in one energy unit of the model; default: what its file declares,
            else 1.
        length_units_to_A: Angstrom in one length unit of the model; default likewise.
        transforms: for a model that is loaded already.
        chemical_species_to_atom_type_map: this and what follows: see `ase.NequIPCalculator`.
        neighborlist_backend: name of a backend.
        neighborlist_skin: Angstrom.
        model_name: which model of a package or checkpoint.
        modifiers: names of modifiers to apply.
        trust_code: consent to running code of the file.
        allow_tf32: multiply matrices in TF32 on GPUs.
        compile: False runs a package or checkpoint without compilation.
        require_compiled: stop where the model cannot run compiled.

    Raises:
        ConfigError: an argument does not fit. Files raise what
            `nequip_core.runtime.open_model` says.
    """  # noqa: E501

    compile_target = ASE

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
        self.adopt(model, device, transforms, energy_units_to_eV, length_units_to_A, opening)

    def add_to(
        self,
        system: openmm.System,
        topology: Topology,
        atoms: Iterable[int] | None = None,
        force_group: int = 0,
        atom_types: Sequence[int] | None = None,
    ) -> openmm.PythonForce:
        """Add the force of the model to a system, and return it.

        Args:
            system: particles in the order of the topology.
            topology: gives elements; periodic if it or the system is.
            atoms: indices of the particles that the model sees; default all.
            force_group: of OpenMM.
            atom_types: index of the model's type for each of these particles, in place of their
                elements.

        Raises:
            UnknownSpeciesError: an element is not known to the model.
            DataError: a particle has no element, or types and particles do not fit.
        """
        chosen = None if atoms is None else [int(index) for index in atoms]
        every = list(topology.atoms())
        if len(every) != system.getNumParticles():
            raise DataError(
                f"the topology has {len(every)} atoms, the system {system.getNumParticles()}"
            )
        included = every if chosen is None else [every[index] for index in chosen]
        periodic = (
            topology.getPeriodicBoxVectors() is not None or system.usesPeriodicBoundaryConditions()
        )
        if atom_types is None:
            bare = [atom.index for atom in included if atom.element is None]
            if bare:
                raise DataError(
                    f"particle {bare[0]} of the topology has no element; say atom_types"
                )
            species = {ATOMIC_NUMBERS_KEY: [atom.element.atomic_number for atom in included]}
        else:
            species = {ATOM_TYPE_KEY: [int(index) for index in atom_types]}
        compute = _Compute(self, species, len(included), periodic)
        force = openmm.PythonForce(compute)
        force.setForceGroup(force_group)
        force.setUsesPeriodicBoundaryConditions(periodic)
        if chosen is not None:
            force.setParticles(chosen)
        system.addForce(force)
        return force


class _Compute:
    """What OpenMM calls with the state of the particles."""

    def __init__(
        self, adapter: NequIPForce, species: dict[str, list[int]], atoms: int, periodic: bool
    ) -> None:
        self.adapter, self.species, self.periodic = adapter, species, periodic
        count = len(next(iter(species.values())))
        if count != atoms:
            raise DataError(f"{atoms} particles, but {count} atom types")
        types = species.get(ATOM_TYPE_KEY)
        if types is None:
            # Names unknown species now, not in the first step.
            numbers = torch.tensor(species[ATOMIC_NUMBERS_KEY], device=adapter.device)
            for transform in adapter.transforms:
                if isinstance(transform, ChemicalSpeciesToAtomTypeMapper):
                    transform({ATOMIC_NUMBERS_KEY: numbers.to(transform.lookup_table.device)})
        names = getattr(adapter.model, "type_names", None)
        if types and names and not 0 <= min(types) <= max(types) < len(names):
            raise ConfigError(f"atom_types must be from 0 to {len(names) - 1}, the types {names}")

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Return energy, kJ/mol, and forces, kJ/mol/nm."""
        nanometre = openmm.unit.nanometer
        positions = state.getPositions(asNumpy=True).value_in_unit(nanometre)
        box = None
        if self.periodic:
            box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(nanometre)
        adapter = self.adapter
        out = adapter.call_model(self._input(positions, box))
        found = {}
        for key in (TOTAL_ENERGY_KEY, FORCE_KEY):
            found[key] = out[key].detach().double().cpu().numpy()
            require_finite(key, found[key])
        energy = adapter.energy_units_to_eV * KJ_PER_MOL_IN_EV
        length = adapter.length_units_to_A / _ANGSTROM_PER_NM
        total = float(found[TOTAL_ENERGY_KEY].reshape(-1)[0]) * energy
        return total, found[FORCE_KEY] * (energy / length)

    def _input(self, positions: np.ndarray, box: np.ndarray | None) -> Any:
        adapter = self.adapter
        unit = adapter.length_units_to_A / _ANGSTROM_PER_NM
        data: dict[str, Any] = {
            POSITIONS_KEY: np.asarray(positions, dtype=float) / unit,
            CELL_KEY: np.zeros((3, 3)) if box is None else np.asarray(box, dtype=float) / unit,
            PBC_KEY: [box is not None] * 3,
            **{key: np.asarray(values) for key, values in self.species.items()},
        }
        typed = ATOM_TYPE_KEY in self.species
        return adapter.model_input(
            from_dict(data),
            skip=ChemicalSpeciesToAtomTypeMapper if typed else (),
        )
