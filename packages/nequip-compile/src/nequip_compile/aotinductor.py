"""Compilation by AOTInductor: trace, export, compile, compare, and only then write the file."""

from __future__ import annotations

import contextlib
import os
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nequip_compile.cxx import require_compiler
from nequip_compile.export import export_trace, trace_model
from nequip_compile.operators import options_for_operators
from nequip_compile.preparation import (
    adapted_model,
    example_frames,
    frames_to_verify,
    model_metadata,
    prepared_model,
    sizes_of,
)
from nequip_compile.progress import stage
from nequip_compile.shared_traces import (
    reference_for,
    sharing_targets,
    trace_for,
    union_target,
)
from nequip_compile.sizes import ANY_SIZES, Sizes
from nequip_compile.source import Source
from nequip_compile.verification import note_skipped, verify_compiled
from nequip_compile.verify import FieldComparison, Reference, eager_references
from nequip_core.compile_targets import CompileTarget
from nequip_core.compiled_metadata import (
    AOTINDUCTOR_SUFFIX,
    INPUTS_KEY,
    OUTPUTS_KEY,
    SIZES_KEY,
    TARGET_KEY,
)
from nequip_core.errors import CompileError
from nequip_core.files import atomic_path, require_output_suffix
from nequip_core.fingerprint import CPU_FEATURES_KEY, available_device, processor_features
from nequip_core.frames import Frame

__all__ = ["compile_model", "compile_models"]

SKIP_CHECK_VARIABLE = "NEQUIP_SKIP_AOTI_MODEL_CHECK"

_OPTIONS: dict[str, Any] = {
    # Otherwise the number of threads of the compiling process is written into the code, and a
    # file made on a login node runs with that many threads everywhere.
    "cpp.dynamic_threads": True,
    # Scatters call torch's kernel, see nequip_compile.export.
    "cpp.fallback_scatter_reduce_sum": True,
}


def compile_model(
    model: torch.nn.Module,
    output: str | os.PathLike[str],
    target: CompileTarget,
    device: str | torch.device = "cpu",
    *,
    tf32: bool = False,
    example: Frame | None = None,
    source: Source | None = None,
    inductor_options: Mapping[str, Any] | None = None,
    bounds: Sizes = ANY_SIZES,
) -> list[FieldComparison]:
    """Compile a model, check it against itself, and write it to `output`.

    Progress goes to standard error. The model is left as it is. Environment variable
    ``NEQUIP_SKIP_AOTI_MODEL_CHECK=1`` leaves the check out.

    Args:
        model: a graph model.
        output: path that ends in ``.nequip.pt2``; an existing file is replaced on success.
        target: input and output fields, see `nequip_core.compile_targets`.
        device: where the compiled model shall run.
        tf32: multiply matrices in TF32 on GPUs; for float32 models.
        example: a frame to trace and compare with, besides made-up ones.
        source: what the model was loaded from, for the metadata.
        inductor_options: further options of `torch._inductor.config`, see
            `nequip_compile.inductor_options`.
        bounds: sizes that the compiled model is for.

    Returns:
        The comparison with the eager model for each output field; empty if left out.

    Raises:
        CompileError: the model cannot be compiled, there is no C++ compiler, or the compiled
            model does not reproduce the eager one. Nothing is written then.
        ConfigError: the device is not there, or the target or the bounds do not fit the model.
        FileFormatError: the output's name does not end in ``.nequip.pt2``.
    """
    (comparisons,) = compile_models(
        model,
        {Path(output): target},
        device,
        tf32=tf32,
        example=example,
        source=source,
        inductor_options=inductor_options,
        bounds=bounds,
    ).values()
    return comparisons


def compile_models(
    model: torch.nn.Module,
    outputs: Mapping[Path, CompileTarget],
    device: str | torch.device = "cpu",
    *,
    tf32: bool = False,
    example: Frame | None = None,
    source: Source | None = None,
    inductor_options: Mapping[str, Any] | None = None,
    bounds: Sizes = ANY_SIZES,
) -> dict[Path, list[FieldComparison]]:
    """Compile a model for several targets; all files appear, or none.

    Targets with the same inputs are traced and evaluated once.

    Args:
        model: a graph model.
        outputs: target by the path of its file.
        device: as for `compile_model`, like all that follows.
        tf32: see there.
        example: see there.
        source: see there.
        inductor_options: see there.
        bounds: see there.

    Returns:
        What `compile_model` returns, by path.

    Raises:
        NequIPError: as `compile_model` does.
    """
    for path in outputs:
        require_output_suffix(path, AOTINDUCTOR_SUFFIX, "compiled model")
    place = available_device(device)
    require_compiler()
    eager = prepared_model(model, place)
    metadata = {**model_metadata(eager, tf32, source=source), **_machine_metadata(place)}
    options = {**_OPTIONS, **(inductor_options or {})}
    found: dict[Path, list[FieldComparison]] = {}
    with contextlib.ExitStack() as files:
        for group in sharing_targets(list(outputs.values())):
            adapted = adapted_model(prepared_model(eager, place), group[0])
            shared = _shared(adapted, group, place, example, bounds)
            for path, target in outputs.items():
                if target in group:
                    temporary = files.enter_context(atomic_path(path))
                    _write(shared, target, temporary, metadata, options)
                    found[path] = _verified(shared, target, temporary)
    return {path: found[path] for path in outputs}


@dataclass(frozen=True)
class _Shared:
    """What is made once for targets with the same inputs, see `nequip_compile.shared_traces`."""

    eager: torch.nn.Module
    """The model before compilation, on `place`."""
    whole: CompileTarget
    """The target with every output of theirs."""
    place: torch.device
    """Where compiled models run."""
    example: Frame
    """The first of the frames that `trace` was made with."""
    bounds: Sizes
    """Sizes that compiled models are for."""
    limits: Sizes
    """The same, with the sizes of `example` where they are static."""
    trace: torch.fx.GraphModule
    """The trace for `whole`."""
    references: dict[str, Reference]
    """What `eager` gives for the outputs of `whole`, by description of the frame."""


def _shared(
    eager: torch.nn.Module,
    group: list[CompileTarget],
    place: torch.device,
    example: Frame | None,
    bounds: Sizes,
) -> _Shared:
    """Evaluate and trace a model for a group of targets."""
    whole = union_target(group)
    with stage("evaluating the model before compilation"):
        examples = example_frames(eager, whole, place, example, bounds)
        frames = frames_to_verify(eager, whole, place, example, bounds, examples)
        references = eager_references(eager, whole, frames)
    with stage(f"tracing for target {_quoted(whole.name)}"):
        trace = trace_model(eager, whole, examples)
    return _Shared(
        eager=eager,
        whole=whole,
        place=place,
        example=examples[0],
        bounds=bounds,
        limits=bounds.fixed(*sizes_of(examples[0])),
        trace=trace,
        references=references,
    )


def _write(
    shared: _Shared,
    target: CompileTarget,
    path: Path,
    metadata: dict[str, str],
    options: dict[str, Any],
) -> None:
    """Compile the part of a trace that a target needs, and write it to `path`."""
    stated = {**metadata, **_target_metadata(target)}
    if shared.bounds != ANY_SIZES:
        stated[SIZES_KEY] = str(shared.limits)
    with stage(f"compiling for {shared.place}, target '{target.name}' (about a minute)"):
        part = trace_for(target, shared.trace, shared.whole.outputs)
        program = export_trace(part, target, shared.example, shared.bounds)
        with options_for_operators(program, shared.place) as operators:
            _compile(program, path, {**operators, **options, "aot_inductor.metadata": stated})
        _require_sound_code(path)


def _verified(shared: _Shared, target: CompileTarget, path: Path) -> list[FieldComparison]:
    """Return the comparison of what was written with the eager model; empty if left out."""
    if os.environ.get(SKIP_CHECK_VARIABLE) == "1":
        note_skipped(path, SKIP_CHECK_VARIABLE)
        return []
    references = reference_for(target, shared.references)
    return verify_compiled(path, shared.eager, target, references, shared.place)


def _quoted(names: str) -> str:
    return ", ".join(f"'{name}'" for name in names.split(", "))


def _target_metadata(target: CompileTarget) -> dict[str, str]:
    return {
        TARGET_KEY: target.name,
        INPUTS_KEY: " ".join(target.inputs),
        OUTPUTS_KEY: " ".join(target.outputs),
    }


def _machine_metadata(place: torch.device) -> dict[str, str]:
    """Return what torch does not write of the machine: g++ uses every instruction there is."""
    if place.type != "cpu":
        return {}
    return {CPU_FEATURES_KEY: " ".join(processor_features())}


def _compile(program: Any, path: Path, options: dict[str, Any]) -> None:
    try:
        with warnings.catch_warnings():
            # torch's own copy of its tree specifications warns about itself.
            warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec", FutureWarning)
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=options
            )
    except Exception as error:
        if "KeyboardInterrupt" in str(error):
            # Inductor wraps an interrupt that arrives inside of its own lowering.
            raise KeyboardInterrupt from error
        lines = [line for line in str(error).splitlines() if line.strip()][:12]
        raise CompileError(
            f"AOTInductor failed ({type(error).__name__}): " + "\n".join(lines)
        ) from error


def _require_sound_code(path: Path) -> None:
    """Refuse code that a comparison could pass by luck, before it runs.

    Vectorized atomic sums on the CPU can write outside of their memory, see
    https://github.com/pytorch/pytorch/issues/191837. `nequip_compile.export` keeps ``index_add``
    from becoming one.

    Raises:
        CompileError: there is such code.
    """
    with zipfile.ZipFile(path) as archive:
        sources = [name for name in archive.namelist() if name.endswith(".cpp")]
        if any(b"atomic_add_vec<" in archive.read(name) for name in sources):
            raise CompileError(
                f"torch {torch.__version__} turns a sum of this model into code that may write "
                "outside of its memory (pytorch issue 191837); in the model, take rows with "
                "torch.index_select in place of x[index], and sum with torch.index_add"
            )
