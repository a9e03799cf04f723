"""Compilation by AOTInductor: trace, export, compile, compare, and only then write the file."""

from __future__ import annotations

import copy
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from nequip_compile._version import __version__
from nequip_compile.export import export_model
from nequip_compile.progress import say, stage
from nequip_compile.verify import (
    FieldComparison,
    compare_models,
    comparison_table,
    eager_references,
    require_agreement,
    verification_frames,
)
from nequip_core.compile_targets import CompileTarget
from nequip_core.compiled import COMPILED_SUFFIX, INPUTS_KEY, OUTPUTS_KEY, load_compiled_model
from nequip_core.errors import CompileError
from nequip_core.files import atomic_path, require_output_suffix
from nequip_core.fingerprint import TORCH_VERSION_KEY, available_device
from nequip_core.frames import Frame
from nequip_core.synthetic import synthetic_frame

__all__ = ["compile_model", "compiled_metadata"]

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
) -> list[FieldComparison]:
    """Compile a model, check it against itself, and write it to `output`.

    Progress goes to standard error. The model is left as it is. Environment variable
    ``NEQUIP_SKIP_AOTI_MODEL_CHECK=1`` leaves the check out.

    Args:
        model: a graph model.
        output: path that ends in ``.nequip.pt2``; an existing file is replaced on success.
        target: input and output fields, see `nequip_core.compile_targets`.
        device: where the compiled model shall run.

    Returns:
        The comparison with the eager model for each output field; empty if left out.

    Raises:
        CompileError: the model cannot be compiled, there is no C++ compiler, or the compiled
            model does not reproduce the eager one. Nothing is written then.
        ConfigError: the device is not there, or the target does not fit the model.
        FileFormatError: the output's name does not end in ``.nequip.pt2``.
    """
    final = require_output_suffix(output, COMPILED_SUFFIX, "compiled model")
    place = available_device(device)
    _require_graph_model(model)
    _require_compiler()
    eager = copy.deepcopy(model).eval().requires_grad_(False).to(place)
    with stage("evaluating the model before compilation"):
        references = eager_references(eager, target, _verification_frames(eager, target, place))
    with stage(f"tracing for target '{target.name}'"):
        program = export_model(eager, target, _examples(eager, target, place))
    with atomic_path(final) as path:
        with stage(f"compiling for {place} (usually about a minute)"):
            _compile(program, path, compiled_metadata(eager, target))
            _require_sound_code(path)
        if os.environ.get(SKIP_CHECK_VARIABLE) == "1":
            say(f"not compared with the eager model, because {SKIP_CHECK_VARIABLE}=1")
            return []
        with stage("comparing with the eager model"):
            compiled = load_compiled_model(path, place)
            comparisons = compare_models(compiled, references, str(eager.model_dtype))
        say(comparison_table(comparisons))
        require_agreement(comparisons)
    return comparisons


def compiled_metadata(model: torch.nn.Module, target: CompileTarget) -> dict[str, str]:
    """Return the metadata of a compiled file, see `nequip_core.compiled`."""
    return {
        **{key: str(value) for key, value in model.metadata.items()},  # type: ignore[union-attr, operator]
        "allow_tf32": "0",
        INPUTS_KEY: " ".join(target.inputs),
        OUTPUTS_KEY: " ".join(target.outputs),
        TORCH_VERSION_KEY: torch.__version__,
        "nequip_compile_version": __version__,
    }


def _require_graph_model(model: torch.nn.Module) -> None:
    if not getattr(model, "is_graph_model", False):
        raise CompileError(
            f"expected a graph model, got {type(model).__name__} without the marker is_graph_model"
        )


def _require_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise CompileError(
            "compiling needs a C++ compiler and none works here: install g++, or name one in the "
            "environment variable CXX"
        ) from error


def _examples(model: torch.nn.Module, target: CompileTarget, device: torch.device) -> list[Frame]:
    """Return two examples whose sizes differ from each other and from every fixed size."""
    examples = []
    for seed, extra in ((1, 0), (2, 5)):
        count = max(11, 2 * len(model.type_names)) + extra  # type: ignore[arg-type]
        frame = synthetic_frame(model.type_names, model.r_max, num_atoms=count, seed=seed)  # type: ignore[arg-type]
        prepared = target.prepare(frame)
        examples.append({key: value.to(device) for key, value in prepared.items()})
    return examples


def _compile(program: Any, path: Path, metadata: dict[str, str]) -> None:
    options = {**_OPTIONS, "aot_inductor.metadata": metadata}
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


def _verification_frames(
    model: torch.nn.Module, target: CompileTarget, device: torch.device
) -> dict[str, Frame]:
    frames = verification_frames(target, model.type_names, model.r_max)  # type: ignore[arg-type]
    return {
        title: {key: value.to(device) for key, value in frame.items()}
        for title, frame in frames.items()
    }
