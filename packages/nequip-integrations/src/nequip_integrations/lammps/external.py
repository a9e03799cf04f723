"""LAMMPS driven from Python by ``fix external``: no plugin, no compiler, one process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nequip_core.compile_targets import PAIR_NEQUIP
from nequip_core.compiled import load_compiled_model
from nequip_core.compiled_metadata import (
    COMPILED_SUFFIXES,
    INPUTS_KEY,
    SCRIPT_INPUTS_KEY,
    read_compiled_metadata,
)
from nequip_core.cutoffs import cutoff_table_from_text
from nequip_core.errors import ConfigError, DataError
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    ATOMIC_VIRIAL_KEY,
    CELL_KEY,
    EDGE_FORCE_KEY,
    EDGE_INDEX_KEY,
    EDGE_VECTORS_KEY,
    FORCE_KEY,
    PBC_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    VIRIAL_KEY,
)
from nequip_core.frames import Frame, from_dict, to_
from nequip_core.runtime import open_model
from nequip_core.transforms import NeighborListTransform
from nequip_integrations.lammps.compile_target import OWNED_ATOMS_KEY, with_owned_atoms

__all__ = ["DEFAULT_SKIN", "ExternalModel"]

DEFAULT_SKIN = 1.0
"""Skin of the neighbor list, Angstrom."""

# Of a symmetric tensor in the order of LAMMPS: xx yy zz xy xz yz.
_ROWS, _COLUMNS = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)


class ExternalModel:
    """A model that computes forces for a ``fix ID all external pf/callback 1 1`` of LAMMPS.

    Energies, forces and virial are added to those of the pair style, which may be ``zero``. Where
    the model fails, or returns NaN, forces are set to NaN and LAMMPS is told to end the run in that
    step; `raise_failure`, to be called after each run, raises what happened.

    Args:
        lammps: an instance of the class ``lammps.lammps``, on one process, with atoms.
        fix_id: of the fix.
        model: a compiled file, package or checkpoint, see `nequip_core.runtime.open_model`.
        type_names: the model's type name of each atom type of LAMMPS, in order.
        device: where the model runs.

    Raises:
        ConfigError: the type names do not fit, or there are several processes.
        NequIPError: the model cannot be opened.
    """

    def __init__(
        self,
        lammps: Any,
        fix_id: str,
        model: str | os.PathLike[str],
        type_names: Sequence[str],
        device: str = "cpu",
    ) -> None:
        if lammps.extract_setting("world_size") != 1:
            raise ConfigError("fix external with a model runs on one process")
        self.failure: DataError | None = None
        """What went wrong, None as long as nothing has."""
        self._lammps, self._fix_id = lammps, fix_id
        self._model, self._device = _opened(model, device)
        known = list(self._model.type_names)
        count = lammps.extract_global("ntypes")
        unknown = [name for name in type_names if name not in known]
        if unknown or len(type_names) != count:
            raise ConfigError(
                f"there must be one type name of the model {known} for each of the {count} atom "
                f"types, got {list(type_names)}"
            )
        self._types = np.array([known.index(name) for name in type_names])
        cutoffs = cutoff_table_from_text(
            self._model.metadata.get("per_edge_type_cutoff"), len(known)
        )
        partial = None
        if cutoffs is not None:
            partial = {
                centre: dict(zip(known, row, strict=True))
                for centre, row in zip(known, cutoffs, strict=True)
            }
        self._neighbors = NeighborListTransform(
            float(self._model.r_max), partial, known, skin=DEFAULT_SKIN
        )
        lammps.set_fix_external_callback(fix_id, self._callback)

    def raise_failure(self) -> None:
        """Do nothing if all went well so far.

        Raises:
            DataError: the model failed, in the step that the run ended in.
        """
        if self.failure is not None:
            raise self.failure

    def _callback(
        self, caller: object, step: int, local: int, ids: object, x: np.ndarray, f: np.ndarray
    ) -> None:
        # An exception would be printed and ignored by ctypes, and the run go on.
        try:
            if self.failure is not None:
                raise self.failure
            self._compute(x[:local], f)
        except Exception as error:
            f[:] = np.nan
            if self.failure is None:
                lines = [line for line in str(error).splitlines() if line.strip()]
                # What failed inside of TorchScript stands in the last line, after its stack.
                script = any("Traceback of TorchScript" in line for line in lines)
                text = (lines or [type(error).__name__])[-1 if script else 0]
                self.failure = DataError(f"step {step}: the model failed: {text}")
            self._lammps.fix_external_set_energy_global(self._fix_id, float("nan"))
            self._lammps.force_timeout()

    def _compute(self, x: np.ndarray, f: np.ndarray) -> None:
        lammps = self._lammps
        frame = to_(self._neighbors(self._frame(x)), self._device)
        found = _evaluated(self._model, frame)
        arrays = {name: value.detach().double().cpu().numpy() for name, value in found.items()}
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise DataError(
                    f"the model returned a {name} that is not a finite number; atoms on top of "
                    "each other, or weights that are NaN, do that"
                )
        energies = arrays[PER_ATOM_ENERGY_KEY].reshape(-1)
        f[: len(x)] = arrays[FORCE_KEY]
        lammps.fix_external_set_energy_global(self._fix_id, float(energies.sum()))
        lammps.fix_external_set_energy_peratom(self._fix_id, energies.tolist())
        virial = _components(arrays[VIRIAL_KEY].reshape(3, 3))
        lammps.fix_external_set_virial_global(self._fix_id, virial.tolist())
        if ATOMIC_VIRIAL_KEY in arrays:
            each = _components(arrays[ATOMIC_VIRIAL_KEY])
            lammps.fix_external_set_virial_peratom(self._fix_id, each.tolist())

    def _frame(self, x: np.ndarray) -> Frame:
        low, high, xy, yz, xz, periodic, _ = self._lammps.extract_box()
        a, b, c = (top - bottom for bottom, top in zip(low, high, strict=True))
        types = np.array(self._lammps.numpy.extract_atom("type")[: len(x)]).reshape(-1)
        return from_dict(
            {
                POSITIONS_KEY: np.array(x),
                CELL_KEY: np.array([[a, 0.0, 0.0], [xy, b, 0.0], [xz, yz, c]]),
                PBC_KEY: np.array(periodic, dtype=bool),
                ATOM_TYPE_KEY: self._types[types - 1],
            }
        )


def _opened(model: str | os.PathLike[str], device: str) -> tuple[Any, torch.device]:
    """Return a model with its device."""
    if str(model).endswith(COMPILED_SUFFIXES):
        metadata = read_compiled_metadata(model)
        inputs = metadata.get(INPUTS_KEY, metadata.get(SCRIPT_INPUTS_KEY, ""))
        if OWNED_ATOMS_KEY in inputs.split():
            compiled = load_compiled_model(model, device)
            return compiled, compiled.device
    opened = open_model(model, device, target=PAIR_NEQUIP)
    return opened.model, opened.device


def _evaluated(model: Any, frame: Frame) -> Frame:
    """Return energies, forces and virials of a frame with a neighbor list."""
    if OWNED_ATOMS_KEY not in getattr(model, "inputs", ()):
        out = model(frame)
        names = (PER_ATOM_ENERGY_KEY, FORCE_KEY, VIRIAL_KEY, ATOMIC_VIRIAL_KEY)
        return {name: out[name] for name in names if name in out}
    inputs = with_owned_atoms(frame)
    inputs[OWNED_ATOMS_KEY] = torch.ones_like(inputs[OWNED_ATOMS_KEY])
    out = model(inputs)
    gradient, (centre, neighbor) = out[EDGE_FORCE_KEY], inputs[EDGE_INDEX_KEY]
    product = inputs[EDGE_VECTORS_KEY].unsqueeze(-1) * gradient.unsqueeze(-2)
    half = -0.25 * (product + product.transpose(-1, -2))
    forces = torch.zeros_like(inputs[POSITIONS_KEY])
    each = half.new_zeros((forces.shape[0], 3, 3))
    each = each.index_add(0, centre, half).index_add(0, neighbor, half)
    return {
        PER_ATOM_ENERGY_KEY: out[PER_ATOM_ENERGY_KEY],
        FORCE_KEY: forces.index_add(0, centre, gradient).index_add(0, neighbor, -gradient),
        VIRIAL_KEY: each.sum(dim=0),
        ATOMIC_VIRIAL_KEY: each,
    }


def _components(tensors: np.ndarray) -> np.ndarray:
    """Return xx yy zz xy xz yz of tensors (..., 3, 3)."""
    symmetric = 0.5 * (tensors + np.swapaxes(tensors, -1, -2))
    return symmetric[..., _ROWS, _COLUMNS]
