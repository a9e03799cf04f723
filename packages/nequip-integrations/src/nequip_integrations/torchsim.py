"""NequIP models in torch-sim. Needs the extra ``nequip-integrations[torchsim]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from nequip_core.compile_targets import BATCH
from nequip_core.errors import ConfigError, DataError
from nequip_core.fields import (
    ATOMIC_NUMBERS_KEY,
    BATCH_KEY,
    CELL_KEY,
    FORCE_KEY,
    NUM_NODES_KEY,
    PBC_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_core.frames import Frame
from nequip_core.neighbors import DEFAULT_BACKEND
from nequip_core.saved_model import SOLE_MODEL
from nequip_integrations.absent import absent
from nequip_integrations.adapter import ModelAdapter
from nequip_integrations.loading import DEFAULT_SKIN
from nequip_integrations.preparation import Transform

if TYPE_CHECKING:
    from torch_sim.models.interface import ModelInterface
    from torch_sim.state import SimState
else:
    try:
        from torch_sim.models.interface import ModelInterface
    except ImportError as error:
        ModelInterface = absent("torch-sim", "torchsim", error)

__all__ = ["NequIPTorchSimCalc"]


class NequIPTorchSimCalc(ModelAdapter, ModelInterface):
    """A torch-sim model around a NequIP model; many systems in one call.

    Results are in torch-sim's units, eV and Angstrom: ``energy`` (F,), ``forces`` (N, 3),
    ``stress`` (F, 3, 3), positive under tension and zero where a system has no volume, and
    ``energies`` (N,), the model's atomic energies. Whatever the state's precision, the model gets
    positions in float64; results have the precision of the state.

    Packages and checkpoints run eagerly or are compiled with the target ``batch``; a compiled file
    must be of that target.

    Args:
        model: a path or reference, or a loaded model, see `ase.NequIPCalculator`.
        device: where to run; states must be there.
        transforms: for a model that is loaded already.
        atomic_numbers: (N,) of all systems, for states that have none.
        system_idx: (N,) system of each atom, for states that have none; goes with
            `atomic_numbers`, without it these are of one system.
        energy_units_to_eV: eV in one energy unit of the model; default: what its file declares,
            else 1.
        length_units_to_A: Angstrom in one length unit of the model; default likewise.
        chemical_species_to_atom_type_map: this and what follows: see `ase.NequIPCalculator`.
        neighborlist_backend: name of a backend; ``torch`` makes the lists of a batch at once.
        neighborlist_skin: Angstrom; serves states of one system.
        model_name: which model of a package or checkpoint.
        modifiers: names of modifiers to apply.
        trust_code: consent to running code of the file.
        allow_tf32: multiply matrices in TF32 on GPUs.
        compile: False runs a package or checkpoint without compilation.
        require_compiled: stop where the model cannot run compiled.

    Raises:
        ConfigError: an argument does not fit. Files raise what
            `nequip_core.runtime.open_model` says.
    """

    compile_target = BATCH

    def __init__(
        self,
        model: Any,
        device: str | torch.device = "cpu",
        transforms: Sequence[Transform] = (),
        atomic_numbers: torch.Tensor | None = None,
        system_idx: torch.Tensor | None = None,
        *,
        energy_units_to_eV: float | None = None,
        length_units_to_A: float | None = None,
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
        torch.nn.Module.__init__(self)
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
        if system_idx is not None and atomic_numbers is None:
            raise ConfigError("system_idx goes with atomic_numbers, which are missing")
        self.adopt(model, device, transforms, energy_units_to_eV, length_units_to_A, opening)
        self._dtype = torch.float64
        self._memory_scales_with = "n_atoms_x_density"
        self.compute_forces = self.compute_stress = True
        self.atomic_numbers = atomic_numbers
        if atomic_numbers is not None and system_idx is None:
            system_idx = torch.zeros_like(atomic_numbers, dtype=torch.int64)
        self.system_idx = system_idx

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where the model runs."""
        return self._device

    @device.setter
    def device(self, device: torch.device) -> None:
        self._device = device

    @property
    def compute_forces(self) -> bool:
        """Whether results have forces; they cost next to nothing."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, compute_forces: bool) -> None:
        self._compute_forces = bool(compute_forces)

    @property
    def compute_stress(self) -> bool:
        """Whether results have a stress; it costs next to nothing."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, compute_stress: bool) -> None:
        self._compute_stress = bool(compute_stress)

    def forward(self, state: SimState | Mapping[str, Any], **kwargs: Any) -> Frame:
        """Return energies, forces and stresses of all systems of a state.

        Raises:
            UnknownSpeciesError: a system has a species that the model does not know.
            DataError: the state is on another device, lacks something, has both or neither of
                its own atomic numbers and those given before, or the model returned NaN.
            ModelError: there is too little memory.
        """
        data = self._frame(state)
        systems = data[NUM_NODES_KEY].shape[0]
        dtype = _of(state, "positions").dtype
        out = self.call_model(self.model_input(data))
        energy, length = self.energy_units_to_eV, self.length_units_to_A
        results = {"energy": out[TOTAL_ENERGY_KEY].reshape(systems) * energy}
        if PER_ATOM_ENERGY_KEY in out:
            results["energies"] = out[PER_ATOM_ENERGY_KEY].reshape(-1) * energy
        if self.compute_forces:
            results["forces"] = out[FORCE_KEY] * (energy / length)
        if self.compute_stress:
            if STRESS_KEY not in out:
                raise DataError("the model computes no stress; set compute_stress to False")
            results["stress"] = out[STRESS_KEY].reshape(systems, 3, 3) * (energy / length**3)
        for name, values in results.items():
            _require_finite(name, values, data[BATCH_KEY])
        results = {name: value.detach().to(dtype) for name, value in results.items()}
        self.save_extra_outputs(out, results)
        return results

    def save_extra_outputs(self, out: Frame, results: Frame) -> None:
        """Do nothing; override to put further outputs of the model into ``results``."""

    def _frame(self, state: SimState | Mapping[str, Any]) -> Frame:
        """Return geometry and species of a state as a batch, in the model's unit of length."""
        positions = _of(state, "positions")
        if positions is None or _of(state, "cell") is None:
            raise DataError("the state has no 'positions' or no 'cell'")
        if positions.device.type != self.device.type:
            raise DataError(f"the state is on {positions.device}, the model on {self.device}")
        numbers, systems = _of(state, "atomic_numbers"), _of(state, "system_idx")
        if self.atomic_numbers is not None:
            if isinstance(state, Mapping) and numbers is not None:
                raise DataError("the state has atomic numbers, and others were given before")
            numbers, systems = self.atomic_numbers, self.system_idx
        if numbers is None:
            raise DataError("the state has no 'atomic_numbers', and none were given before")
        if len(numbers) != len(positions):
            raise DataError(f"{len(positions)} atoms, but {len(numbers)} atomic numbers")
        if len(positions) == 0:
            raise DataError("the state has no atoms")
        if systems is None:
            systems = torch.zeros(len(positions), dtype=torch.int64)
        # torch-sim's cell has its vectors as columns; the transpose is a view, and compiled models
        # want contiguous memory.
        cell = _of(state, "cell").detach().double().reshape(-1, 3, 3).mT / self.length_units_to_A
        systems = systems.to(positions.device)
        counts = torch.bincount(systems, minlength=len(cell))
        if len(counts) != len(cell) or bool((systems.diff() < 0).any()):
            raise DataError(f"system_idx must rise from 0 to {len(cell) - 1}, a cell for each")
        pbc = torch.as_tensor(_of(state, "pbc", False), dtype=torch.bool, device=positions.device)
        return {
            POSITIONS_KEY: (positions.detach().double() / self.length_units_to_A).contiguous(),
            CELL_KEY: cell.contiguous(),
            PBC_KEY: pbc.expand(len(cell), 3).contiguous(),
            ATOMIC_NUMBERS_KEY: numbers.to(positions.device, torch.int64),
            BATCH_KEY: systems.contiguous(),
            NUM_NODES_KEY: counts,
        }

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled, see `adapter.ModelAdapter`."""
        state = super().__getstate__()
        if self.recipe is not None:
            modules = {key: value for key, value in self._modules.items() if key != "model"}
            state["_modules"] = modules
        return state


def _of(state: Any, name: str, default: Any = None) -> Any:
    """Return a field of a state, or of a dictionary in its place."""
    if isinstance(state, Mapping):
        return state.get(name, default)
    return getattr(state, name, default)


def _require_finite(name: str, values: torch.Tensor, systems: torch.Tensor) -> None:
    """Check results.

    Raises:
        DataError: a system's are not finite.
    """
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    row = int((~finite).nonzero()[0, 0])
    system = row if name in ("energy", "stress") else int(systems[row])
    raise DataError(
        f"the model returned, for system {system}, a number in '{name}' that is not finite; atoms "
        "on top of each other, or weights that are NaN, do that"
    )
