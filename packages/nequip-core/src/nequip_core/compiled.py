"""Compiled models (``.nequip.pt2``, ``.nequip.pth``), ready to be called.

A ``.nequip.pt2`` is bound to the torch version, device kind and processor features it was compiled
for. All of that is read from the file, see `nequip_core.compiled_metadata`, and checked before any
native code of it is loaded.
"""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_core.compiled_metadata import (
    AOTINDUCTOR_SUFFIX,
    INPUTS_KEY,
    OUTPUTS_KEY,
    SIZES_KEY,
    TF32_KEY,
    TORCHSCRIPT_SUFFIX,
    read_compiled_metadata,
    require_compiled_metadata,
    require_intact,
)
from nequip_core.compiled_script import (
    ScriptRunner,
    load_script,
    script_fields,
    with_zero_cell,
)
from nequip_core.cutoffs import cutoff_table_from_text
from nequip_core.errors import (
    DataError,
    FileFormatError,
    MissingDependencyError,
)
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    BATCH_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    NUM_NODES_KEY,
    POSITIONS_KEY,
    is_long,
)
from nequip_core.fingerprint import require_fit
from nequip_core.precision import matrix_precision

if TYPE_CHECKING:
    import os

    import torch

    from nequip_core.frames import Frame

__all__ = [
    "COMPILED_SUFFIX",
    "INPUTS_KEY",
    "OUTPUTS_KEY",
    "CompiledModel",
    "compiled_fields",
    "load_compiled_model",
    "read_compiled_metadata",
]

COMPILED_SUFFIX = AOTINDUCTOR_SUFFIX

# Shapes by field, -1 for any size: compiled code reads memory by these without checking.
_SHAPES: dict[str, tuple[int, ...]] = {
    POSITIONS_KEY: (-1, 3),
    ATOM_TYPE_KEY: (-1,),
    BATCH_KEY: (-1,),
    NUM_NODES_KEY: (-1,),
    CELL_KEY: (-1, 3, 3),
    EDGE_INDEX_KEY: (2, -1),
    EDGE_CELL_SHIFT_KEY: (-1, 3),
}
# What must have one size: field -> axis.
_SIZES: dict[str, dict[str, int]] = {
    "atoms": {POSITIONS_KEY: 0, ATOM_TYPE_KEY: 0, BATCH_KEY: 0},
    "edges": {EDGE_INDEX_KEY: 1, EDGE_CELL_SHIFT_KEY: 0},
    "frames": {CELL_KEY: 0, NUM_NODES_KEY: 0},
}


class CompiledModel:
    """A compiled model, called with a frame and returning the output fields.

    Several threads may call it; one call runs at a time.

    Args:
        loader: torch's runner of the compiled code.
        metadata: of the file.
        path: the file, for messages.
        device: where the model runs.
    """

    def __init__(
        self, loader: Any, metadata: dict[str, str], path: Path, device: torch.device
    ) -> None:
        self._loader = loader
        self._lock = threading.Lock()
        self.path = path
        self.device = device
        self.metadata = metadata
        self.type_names = metadata["type_names"].split()
        self.r_max = float(metadata["r_max"])
        self.model_dtype = metadata["model_dtype"]
        self.allow_tf32 = metadata.get(TF32_KEY, "0") == "1"
        self._is_script = path.name.endswith(TORCHSCRIPT_SUFFIX)
        self.inputs, self.outputs = compiled_fields(metadata, path)
        self.per_edge_type_cutoff = cutoff_table_from_text(
            metadata.get("per_edge_type_cutoff"), len(self.type_names)
        )

    def __repr__(self) -> str:
        return f"CompiledModel('{self.path}', device='{self.device}')"

    def __call__(self, data: Frame) -> Frame:
        """Return the output fields for a frame or, where the target is batched, a batch.

        Args:
            data: fields by name, see `nequip_core.compile_targets`; others are ignored. Inputs
                are brought to the right dtype and layout, not to another device.

        Raises:
            DataError: an input is missing or misshapen, is on another device, or there are
                several frames where the model takes one.
            FileFormatError: the code returns another number of fields than the metadata name.
        """
        tensors = self._arguments(data)
        # torch's runner has one copy of the model, and waits for it with Python's own lock in hand:
        # a second thread that calls it meanwhile would stop both for ever.
        with self._lock, matrix_precision(self.allow_tf32, self.device):
            found = self._loader.boxed_run(tensors)
        if len(found) != len(self.outputs):
            raise FileFormatError(
                f"the metadata of '{self.path}' contradict its code: it returns {len(found)} "
                f"fields, they name {list(self.outputs)}; compile the model again"
            )
        return dict(zip(self.outputs, found, strict=True))

    def _arguments(self, data: Frame) -> list[torch.Tensor]:
        from nequip_core.frames import num_frames, with_batch_

        if self._is_script:
            data = with_zero_cell(data)
        if BATCH_KEY in self.inputs and BATCH_KEY not in data and POSITIONS_KEY in data:
            data = with_batch_(dict(data))
        elif BATCH_KEY not in self.inputs and num_frames(data) != 1:
            raise DataError(
                f"'{self.path.name}' takes one frame at a time, got a batch of {num_frames(data)}; "
                "compile with --target batch to run batches"
            )
        missing = [name for name in self.inputs if name not in data]
        if missing:
            raise DataError(
                f"'{self.path.name}' needs the input fields {missing}; found {sorted(data)}"
            )
        tensors = {name: self._input(name, data[name]) for name in self.inputs}
        _require_equal_sizes(tensors)
        _require_sizes(tensors, self.metadata.get(SIZES_KEY, ""), self.path)
        self._require_indices(tensors)
        return list(tensors.values())

    def _require_indices(self, tensors: Frame) -> None:
        # On a GPU this would wait for the device at every call; there torch checks by itself. On a
        # CPU compiled code would end the whole process.
        if self.device.type != "cpu" or POSITIONS_KEY not in tensors:
            return
        atoms = tensors[POSITIONS_KEY].shape[0]
        limits = {ATOM_TYPE_KEY: len(self.type_names), EDGE_INDEX_KEY: atoms}
        for name, limit in limits.items():
            if name not in tensors or tensors[name].numel() == 0:
                continue
            low, high = (int(bound) for bound in tensors[name].aminmax())
            if low < 0 or high >= limit:
                raise DataError(f"'{name}' must be from 0 to {limit - 1}, got {low} to {high}")

    def _input(self, name: str, value: torch.Tensor) -> torch.Tensor:
        import torch

        if value.device != self.device:
            raise DataError(
                f"input '{name}' is on {value.device}, the model '{self.path.name}' on "
                f"{self.device}"
            )
        if is_long(name):
            if value.dtype.is_floating_point:
                raise DataError(f"input '{name}' must hold integers, got {value.dtype}")
            value = value.to(torch.int64)
        elif value.dtype != torch.float64:
            value = value.to(torch.float64)
        return _with_shape(name, value.detach()).contiguous()


def compiled_fields(
    metadata: dict[str, str], path: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the input and the output fields of a compiled file, from its metadata."""
    if path.name.endswith(TORCHSCRIPT_SUFFIX):
        return script_fields(metadata)
    return tuple(metadata[INPUTS_KEY].split()), tuple(metadata[OUTPUTS_KEY].split())


def _with_shape(name: str, value: torch.Tensor) -> torch.Tensor:
    """Return `value` in its documented shape; ``cell`` may lack its frame axis.

    Raises:
        DataError: the shape is another.
    """
    shape = _SHAPES.get(name)
    if shape is None:
        return value
    if name == CELL_KEY and value.dim() == 2:
        value = value.unsqueeze(0)
    elif len(shape) == 1 and value.dim() == 2 and value.shape[1] == 1:
        value = value.squeeze(1)
    found = tuple(value.shape)
    if len(found) != len(shape) or any(
        wanted not in (-1, size) for wanted, size in zip(shape, found, strict=True)
    ):
        text = ", ".join("any" if size == -1 else str(size) for size in shape)
        raise DataError(f"input '{name}' must have shape ({text}), got {found}")
    return value


def _require_equal_sizes(tensors: Frame) -> None:
    """Check that the inputs agree in the numbers of atoms, edges and frames.

    Raises:
        DataError: they do not.
    """
    for axis, names in _SIZES.items():
        sizes = {name: tensors[name].shape[at] for name, at in names.items() if name in tensors}
        if len(set(sizes.values())) > 1:
            raise DataError(f"the inputs disagree in the number of {axis}: {sizes}")
    if BATCH_KEY not in tensors and CELL_KEY in tensors and tensors[CELL_KEY].shape[0] != 1:
        raise DataError(f"one frame has one cell, got {tensors[CELL_KEY].shape[0]}")


def _require_sizes(tensors: Frame, bounds: str, path: Path) -> None:
    """Check that a file compiled for some sizes gets these: its code relies on them.

    Raises:
        DataError: a size is another.
    """
    for axis, text in zip(("frames", "atoms", "edges"), bounds.split(), strict=False):
        sizes = [tensors[name].shape[at] for name, at in _SIZES[axis].items() if name in tensors]
        least, most = (float(number) for number in text.split(","))
        # Two is the smallest that can be declared, and means that there is no smallest.
        if sizes and not (least if least > 2 else 0) <= sizes[0] <= most:
            raise DataError(
                f"'{path.name}' was compiled for {text} {axis} in a call, got {sizes[0]}; compile "
                "it again with other bounds"
            )


def load_compiled_model(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> CompiledModel:
    """Return a compiled model, ready to be called.

    Args:
        path: a ``.nequip.pt2`` or ``.nequip.pth`` file.
        device: where to run; for a ``.nequip.pt2`` of the kind it was compiled for. ``cuda`` is
            the current GPU.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: the file is no compiled model, is damaged, or was compiled for another
            torch version, processor or GPU.
        ConfigError: the device is of another kind, or not there.
        MissingDependencyError: a module of custom operations that the model needs is missing.
    """
    metadata = read_compiled_metadata(path)
    found = Path(path)
    require_compiled_metadata(metadata, found)
    place = require_fit(metadata, device, found)
    require_intact(found)
    script = found.name.endswith(TORCHSCRIPT_SUFFIX)
    for module in metadata.get("nequip_custom_ops_libs", "").split():
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise MissingDependencyError(
                f"'{found}' needs the module '{module}' for its custom operations: {error}"
            ) from error
    if script:
        runner = ScriptRunner(load_script(found, place), *script_fields(metadata), found)
        return CompiledModel(runner, metadata, found, place)
    return CompiledModel(_native_loader(found, place), metadata, found, place)


def _native_loader(path: Path, device: torch.device) -> Any:
    import torch
    from packaging.version import Version

    index = -1 if device.index is None else device.index
    # Number of runners and device came with torch 2.8.
    place = () if Version(torch.__version__) < Version("2.8") else (1, index)
    try:
        # What torch._inductor.aoti_load_package ends in. Called directly because the way there
        # imports the compiler stack and probes for a C++ compiler, for a comparison of processor
        # features that require_fit has made already.
        return torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, *place)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileFormatError(
            f"torch {torch.__version__} cannot load the compiled model '{path}': {first}"
        ) from error
