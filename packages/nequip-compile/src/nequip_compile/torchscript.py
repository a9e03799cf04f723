"""Compilation to TorchScript: trace, write the trace as TorchScript, compare, write the file.

One file serves every kind of client: frames one by one with a cell, without one, and batches. What
a client leaves out is filled in, see `_FORWARD`.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from nequip_compile.export import ListInputOutput, target_inputs, trace_model
from nequip_compile.preparation import (
    adapted_model,
    example_frames,
    frames_to_verify,
    model_metadata,
    prepared_model,
)
from nequip_compile.progress import say, stage
from nequip_compile.source import Source
from nequip_compile.torchscript_source import scripted_method
from nequip_compile.verification import verify_compiled
from nequip_compile.verify import FieldComparison, eager_references
from nequip_core.compile_targets import BATCH, CompileTarget
from nequip_core.compiled_metadata import (
    SCRIPT_INPUTS_KEY,
    SCRIPT_OUTPUTS_KEY,
    TORCHSCRIPT_SUFFIX,
)
from nequip_core.errors import CompileError, ConfigError
from nequip_core.fields import (
    BATCH_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    NUM_NODES_KEY,
    POSITIONS_KEY,
    get_field_type,
)
from nequip_core.files import atomic_path, require_output_suffix
from nequip_core.fingerprint import available_device
from nequip_core.frames import Frame

__all__ = ["compile_model"]

# What `forward` takes when a client leaves it out: a zero cell, one frame.
_FILLED_IN = {
    CELL_KEY: f'torch.zeros([1, 3, 3], dtype=torch.float64, device=data["{POSITIONS_KEY}"].device)',
    EDGE_CELL_SHIFT_KEY: (
        f'torch.zeros([data["{EDGE_INDEX_KEY}"].size(1), 3], dtype=torch.float64, '
        f'device=data["{POSITIONS_KEY}"].device)'
    ),
    BATCH_KEY: (
        f'torch.zeros([data["{POSITIONS_KEY}"].size(0)], dtype=torch.int64, '
        f'device=data["{POSITIONS_KEY}"].device)'
    ),
    NUM_NODES_KEY: (
        f'torch.full([1], data["{POSITIONS_KEY}"].size(0), dtype=torch.int64, '
        f'device=data["{POSITIONS_KEY}"].device)'
    ),
}


def compile_model(
    model: torch.nn.Module,
    output: str | os.PathLike[str],
    target: CompileTarget | None = None,
    device: str | torch.device = "cpu",
    *,
    tf32: bool = False,
    example: Frame | None = None,
    source: Source | None = None,
) -> list[FieldComparison]:
    """Write a model as TorchScript to `output`, after a comparison with itself.

    Progress goes to standard error. The model is left as it is.

    Args:
        model: a graph model.
        output: path that ends in ``.nequip.pth``; an existing file is replaced on success.
        target: input and output fields that there must be; further ones do no harm.
        device: where the comparison runs. The file can be loaded on any device.
        tf32: ask engines to multiply matrices in TF32 on GPUs.
        example: a frame to trace and compare with, besides made-up ones.
        source: what the model was loaded from, for the metadata.

    Returns:
        The comparison with the eager model for each output field.

    Raises:
        CompileError: the model cannot be traced, TorchScript has no word for an operation, or the
            file does not reproduce the eager model. Nothing is written then.
        ConfigError: the device is not there, or the target does not fit the model.
        FileFormatError: the output's name does not end in ``.nequip.pth``.
    """
    final = require_output_suffix(output, TORCHSCRIPT_SUFFIX, "TorchScript model")
    place = available_device(device)
    eager = adapted_model(prepared_model(model, place), target)
    metadata = model_metadata(eager, tf32, target, source)
    say("TorchScript is deprecated by torch; where the engine takes .nequip.pt2, use aotinductor")
    fields = _all_fields(eager, target, place, example)
    with stage("evaluating the model before compilation"):
        references = eager_references(
            eager, fields, frames_to_verify(eager, fields, place, example)
        )
    with stage("tracing"):
        trace = trace_model(eager, fields, example_frames(eager, fields, place, example))
    metadata[SCRIPT_INPUTS_KEY] = " ".join(fields.inputs)
    metadata[SCRIPT_OUTPUTS_KEY] = " ".join(fields.outputs)
    with atomic_path(final) as path:
        with stage("writing TorchScript"):
            _save(_scripted(trace, fields), path, metadata)
        return verify_compiled(path, eager, fields, references, place)


def _all_fields(
    model: torch.nn.Module,
    target: CompileTarget | None,
    device: torch.device,
    example: Frame | None,
) -> CompileTarget:
    """Return a target with every input that clients have, and all that the model says of atoms.

    Raises:
        ConfigError: the model does not compute an output field of `target`.
    """
    fits = target is None or set(target.inputs) <= set(BATCH.inputs)
    base = BATCH if fits or target is None else target
    (frame, *_) = example_frames(model, base, device, example)
    inputs = dict(zip(base.inputs, target_inputs(base, frame), strict=True))
    wanted = () if target is None else target.outputs
    if wanted:
        ListInputOutput(model, base.inputs, wanted)(*inputs.values())
    computed = [
        name
        for name, value in model(dict(inputs)).items()
        if name not in inputs
        and isinstance(value, torch.Tensor)
        and (
            name in wanted or get_field_type(name, error_on_unregistered=False) in ("node", "graph")
        )
    ]
    if not computed:
        raise ConfigError("the model computes nothing of atoms or frames")
    return CompileTarget(
        name="torchscript",
        inputs=base.inputs,
        outputs=tuple(computed),
        dynamic_frames=base.dynamic_frames,
        prepare=base.prepare,
    )


def _scripted(trace: torch.fx.GraphModule, fields: CompileTarget) -> Any:
    constants: dict[str, torch.Tensor] = {}
    source = scripted_method(trace, "compute", fields.inputs, constants)
    try:
        script = _holder(constants)
        script.define(source)
        script.define(_forward_source(fields))
    except (RuntimeError, ValueError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()][:6]
        raise CompileError("torch cannot compile the TorchScript: " + "\n".join(lines)) from error
    return script


def _holder(constants: dict[str, torch.Tensor]) -> Any:
    """Return a module that holds the tensors of a trace, without methods."""

    # A class of its own each time: torch lets modules of one class share their methods.
    class Script(torch.jit.ScriptModule):
        def __init__(self) -> None:
            super().__init__()
            for name, tensor in constants.items():
                self.register_buffer(name, tensor.detach().clone().contiguous())

    return Script().eval()


def _forward_source(fields: CompileTarget) -> str:
    """Return the method that clients call: a dictionary in, a dictionary out."""
    lines = []
    for name in fields.inputs:
        if name in _FILLED_IN:
            lines += [
                f'if "{name}" in data:',
                f'    in_{name} = data["{name}"].detach()',
                "else:",
                f"    in_{name} = {_FILLED_IN[name]}",
            ]
        else:
            lines.append(f'in_{name} = data["{name}"].detach()')
    arguments = ", ".join(f"in_{name}" for name in fields.inputs)
    results = ", ".join(f'"{name}": found[{at}]' for at, name in enumerate(fields.outputs))
    lines += [f"found = self.compute({arguments})", f"return {{{results}}}"]
    body = "\n".join(f"    {line}" for line in lines)
    return f"def forward(self, data: Dict[str, Tensor]) -> Dict[str, Tensor]:\n{body}\n"


def _save(script: Any, path: Path, metadata: dict[str, str]) -> None:
    # Not to the path: torch ends the whole process when the disk is full.
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        torch.jit.save(script, content, _extra_files=dict(metadata))
    try:
        path.write_bytes(content.getbuffer())
    except OSError as error:
        raise CompileError(
            f"cannot write '{path.name}' in '{path.parent.parent}': {error.strerror}; is the disk "
            "full?"
        ) from error
