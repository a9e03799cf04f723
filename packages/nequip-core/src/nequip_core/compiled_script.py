"""TorchScript models (``.nequip.pth``): loading and calling what a file holds.

Its ``forward`` takes and returns a dictionary. Files of nequip-compile say which fields; for others
those that every potential has are taken for granted.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_core.compiled_metadata import SCRIPT_INPUTS_KEY, SCRIPT_OUTPUTS_KEY
from nequip_core.errors import FileFormatError
from nequip_core.fields import CELL_KEY, EDGE_CELL_SHIFT_KEY, EDGE_INDEX_KEY, VIRIAL_KEY

if TYPE_CHECKING:
    import torch

    from nequip_core.frames import Frame

__all__ = ["ScriptRunner", "load_script", "script_fields", "with_zero_cell"]


def script_fields(metadata: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the input and the output fields of a TorchScript model."""
    from nequip_core.compile_targets import ASE

    inputs, outputs = metadata.get(SCRIPT_INPUTS_KEY), metadata.get(SCRIPT_OUTPUTS_KEY)
    return (
        ASE.inputs if inputs is None else tuple(inputs.split()),
        (*ASE.outputs, VIRIAL_KEY) if outputs is None else tuple(outputs.split()),
    )


def with_zero_cell(data: Frame) -> Frame:
    """Return the frame with a cell of zeros and no shifts where it has no cell at all."""
    if CELL_KEY in data or EDGE_CELL_SHIFT_KEY in data or EDGE_INDEX_KEY not in data:
        return data
    import torch

    edges = data[EDGE_INDEX_KEY]
    zeros = {"dtype": torch.float64, "device": edges.device}
    return {
        **data,
        CELL_KEY: torch.zeros(1, 3, 3, **zeros),  # type: ignore[call-overload]
        EDGE_CELL_SHIFT_KEY: torch.zeros(edges.shape[1], 3, **zeros),  # type: ignore[call-overload]
    }


class ScriptRunner:
    """Calls a TorchScript model with tensors by position.

    Args:
        script: takes and returns a dictionary of tensors.
        inputs: field of each tensor that goes in.
        outputs: field of each tensor that comes out.
        path: the file, for messages.
    """

    def __init__(
        self, script: Any, inputs: Sequence[str], outputs: Sequence[str], path: Path
    ) -> None:
        self._script = script
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._path = path

    def boxed_run(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the output tensors in order, detached from autograd.

        Raises:
            FileFormatError: the model does not return one of the output fields.
        """
        found = self._script(dict(zip(self._inputs, tensors, strict=True)))
        missing = [name for name in self._outputs if name not in found]
        if missing:
            raise FileFormatError(
                f"'{self._path}' does not return the fields {missing}, only {sorted(found)}"
            )
        return [found[name].detach() for name in self._outputs]


def load_script(path: Path, device: torch.device) -> Any:
    """Return the TorchScript model of a file, with its weights as constants.

    Raises:
        FileFormatError: torch cannot load the file.
    """
    import torch

    try:
        with warnings.catch_warnings():
            # nequip-compile has said it when it wrote the file.
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            script = torch.jit.load(str(path), map_location=device).eval()
            return torch.jit.freeze(script)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise FileFormatError(
            f"torch {torch.__version__} cannot load the compiled model '{path}': "
            f"{lines[0] if lines else type(error).__name__}"
        ) from error
