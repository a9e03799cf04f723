"""A model with what stands between it and an engine: device, units, species, neighbor list."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nequip_core.errors import ConfigError, DataError, ModelError
from nequip_core.fields import ATOM_TYPE_KEY, EDGE_INDEX_KEY, FORCE_KEY, PER_ATOM_ENERGY_KEY
from nequip_core.fingerprint import available_device
from nequip_core.frames import Frame, to_
from nequip_core.neighbors import DEFAULT_BACKEND
from nequip_core.neighbors import neighborlist_backend as backend_of
from nequip_core.saved_model import SOLE_MODEL
from nequip_core.training_range import outside
from nequip_core.transforms import NeighborListTransform
from nequip_integrations.declared_units import units_of
from nequip_integrations.loading import DEFAULT_SKIN, ModelLoading
from nequip_integrations.preparation import Transform

if TYPE_CHECKING:
    from typing import Self

    from nequip_integrations.loading import Loaded

__all__ = ["OPENING", "ModelAdapter", "require_finite"]

_LOG = logging.getLogger(__name__)

OPENING: Mapping[str, Any] = {
    "chemical_species_to_atom_type_map": None,
    "neighborlist_backend": DEFAULT_BACKEND,
    "neighborlist_skin": DEFAULT_SKIN,
    "model_name": SOLE_MODEL,
    "modifiers": (),
    "trust_code": None,
    "allow_tf32": False,
    "compile": True,
    "require_compiled": False,
}
"""What opening a file takes, and what it is without being given."""


class ModelAdapter(ModelLoading):
    """What adapters of all engines have in common.

    A pickled adapter names the file that its model is from, and opens that again where it is
    unpickled; a model that was given loaded is pickled itself.
    """

    model: Any
    """From the input of a structure to its output fields."""
    device: torch.device
    """Where the model runs."""
    transforms: list[Transform]
    """What makes the model's input."""
    energy_units_to_eV: float  # noqa: N815
    """eV in one energy unit of the model."""
    length_units_to_A: float  # noqa: N815
    """Angstrom in one length unit of the model."""

    def adopt(
        self,
        model: Any,
        device: str | torch.device,
        transforms: Sequence[Transform],
        energy_units_to_eV: float | None,
        length_units_to_A: float | None,
        opening: Mapping[str, Any],
    ) -> None:
        """Take a model, open it first if it is the path of one; see `ase.NequIPCalculator`.

        Args:
            model: path, reference, or loaded model.
            device: where to run.
            transforms: for a loaded model.
            energy_units_to_eV: eV in one energy unit of the model; None: as its file says, or 1.
            length_units_to_A: Angstrom in one length unit of the model; None likewise.
            opening: values for all keys of `OPENING`.

        Raises:
            ConfigError: an argument does not fit.
        """
        given = {"energy_units_to_eV": energy_units_to_eV, "length_units_to_A": length_units_to_A}
        units_of({}, given)  # names what is not positive before anything is opened
        self.recipe = None
        self._lock = threading.RLock()
        if isinstance(model, str | os.PathLike):
            arguments = {"source": model, "device": device, "transforms": transforms, **opening}
            arguments["length_units_to_A"] = length_units_to_A
            loaded = self._loaded(("_opened", arguments))
        else:
            _require_loaded(model, opening)
            loaded = self._given(model, device, transforms)
        self._take(loaded)
        units = units_of(loaded.facts, given)
        self.energy_units_to_eV = units["energy_units_to_eV"]
        self.length_units_to_A = units["length_units_to_A"]

    def _take(self, loaded: Loaded) -> None:
        self.device = available_device(loaded.device)
        model = loaded.model
        if isinstance(model, torch.nn.Module):
            model = model.eval().requires_grad_(False).to(self.device)
        self.model, self.way, self.recipe = model, loaded.way, loaded.recipe
        self.facts = loaded.facts
        self._warned: set[str] = set()
        self.transforms = list(loaded.transforms)
        # A list that is made on the device is not copied there.
        self._inputs_on_device = self.device.type == "cuda" and any(
            backend_of(transform.backend).supports_cuda
            for transform in self.transforms
            if isinstance(transform, NeighborListTransform)
        )
        for transform in self.transforms:
            if isinstance(transform, torch.nn.Module):
                transform.to(self.device if self._inputs_on_device else "cpu")

    def to(self, device: str | torch.device) -> Self:
        """Move the model to another device, and return the adapter.

        A model that came from a file and cannot be moved, a compiled one, is opened there again.

        Raises:
            ConfigError: there is no such device, or the model cannot be moved there.
        """
        place = available_device(device)
        if place == self.device:
            return self
        if isinstance(self.model, torch.nn.Module):
            loaded = self._given(self.model, place, self.transforms)
            loaded.way, loaded.recipe, loaded.facts = self.way, self.recipe, self.facts
            if self.recipe is not None:
                loaded.recipe = (self.recipe[0], {**self.recipe[1], "device": place})
        elif self.recipe is not None:
            loaded = self._loaded((self.recipe[0], {**self.recipe[1], "device": place}))
        else:
            raise ConfigError(
                f"a loaded model of type {type(self.model).__name__} cannot be moved to {place}; "
                f"give {type(self).__name__} the model's path, or a model that is there already"
            )
        self._take(loaded)
        return self

    def model_input(self, data: Frame, skip: type | tuple[type, ...] = ()) -> Frame:
        """Return the model's input for a frame, on the device.

        Args:
            data: geometry and species, in the model's unit of length; changed in place.
            skip: transforms of these classes are left out.

        Raises:
            UnknownSpeciesError: a species is not known to the model.
            DataError: the frame is not finite, or its cell does not fit.
        """
        if self._inputs_on_device:
            data = to_(data, self.device)
        with self._lock:  # a neighbor list that is kept serves one structure at a time
            for transform in self.transforms:
                if not isinstance(transform, skip):
                    data = transform(data)
        self._warn_outside(data)
        return to_(data, self.device)

    def _warn_outside(self, data: Frame) -> None:
        """Log, once for each thing, how a structure is unlike what the model was trained on."""
        known, names = self.facts.get("training_range"), getattr(self.model, "type_names", None)
        if not known or not names or ATOM_TYPE_KEY not in data or EDGE_INDEX_KEY not in data:
            return
        for about, sentence in outside(known, data, names).items():
            if about not in self._warned:
                self._warned.add(about)
                _LOG.warning("outside of what the model was trained on: %s", sentence)

    def call_model(self, data: Frame) -> Frame:
        """Return the model's output for its input.

        Raises:
            ModelError: there is too little memory.
        """
        with naming_memory(data):
            return self.model(data)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: of a model from a file how to open it again."""
        state = {key: value for key, value in self.__dict__.items() if key != "_lock"}
        if self.recipe is not None:
            for key in ("model", "transforms"):
                state.pop(key, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a pickled state, and open the model's file."""
        self.__dict__.update(state)
        self._lock = threading.RLock()
        if self.recipe is not None:
            self._take(self._loaded(self.recipe))


@contextmanager
def naming_memory(data: Frame) -> Iterator[None]:
    """Turn torch's error about memory into one that says what to do.

    Raises:
        ModelError: there is too little memory for the model to compute `data`.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        wanting = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not wanting and "can't allocate memory" not in text and "out of memory" not in text:
            raise
        from nequip_core.frames import num_edges, num_frames, num_nodes

        first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"too little memory for {num_nodes(data)} atoms with {num_edges(data)} edges "
            f"in {num_frames(data)} structure(s): {first.strip()}; compute fewer or smaller "
            "structures at once, or on a device with more memory"
        ) from error


def require_finite(key: str, array: np.ndarray) -> None:
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


def _require_loaded(model: Any, opening: Mapping[str, Any]) -> None:
    """Check that what is no path is a model, and comes without arguments for files.

    Raises:
        ConfigError: it is not, or one of them was given.
    """
    if not callable(model):
        raise ConfigError(
            "expected the path of a model, a reference nequip.net:<group>/<model>:<version>, or a "
            f"model that is loaded already, got {model!r}"
        )
    given = [name for name, default in OPENING.items() if opening[name] != default]
    if given:
        raise ConfigError(
            f"{', '.join(given)}: for the path of a model; this one is loaded already. Its species "
            "and neighbor list are given by transforms, see "
            "nequip_integrations.preparation.input_transforms"
        )
