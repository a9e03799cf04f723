"""Compilation by AOTInductor: trace, export, compile, compare, and only then write the file."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nequip_compile.export import export_model
from nequip_compile.preparation import (
    example_frames,
    frames_to_verify,
    model_metadata,
    prepared_model,
)
from nequip_compile.progress import say, stage
from nequip_compile.report import add_report, verification_report
from nequip_compile.verify import (
    FieldComparison,
    compare_models,
    comparison_table,
    eager_references,
    require_agreement,
)
from nequip_core.compile_targets import CompileTarget
from nequip_core.compiled import load_compiled_model
from nequip_core.compiled_metadata import AOTINDUCTOR_SUFFIX, INPUTS_KEY, OUTPUTS_KEY
from nequip_core.errors import CompileError
from nequip_core.files import atomic_path, require_output_suffix
from nequip_core.fingerprint import available_device
from nequip_core.frames import Frame

__all__ = ["compile_model"]

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
    inductor_options: Mapping[str, Any] | None = None,
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
        inductor_options: further options of `torch._inductor.config`, see
            `nequip_compile.inductor_options`.

    Returns:
        The comparison with the eager model for each output field; empty if left out.

    Raises:
        CompileError: the model cannot be compiled, there is no C++ compiler, or the compiled
            model does not reproduce the eager one. Nothing is written then.
        ConfigError: the device is not there, or the target does not fit the model.
        FileFormatError: the output's name does not end in ``.nequip.pt2``.
    """
    final = require_output_suffix(output, AOTINDUCTOR_SUFFIX, "compiled model")
    place = available_device(device)
    _require_compiler()
    eager = prepared_model(model, place)
    metadata = {
        **model_metadata(eager, tf32),
        INPUTS_KEY: " ".join(target.inputs),
        OUTPUTS_KEY: " ".join(target.outputs),
    }
    with stage("evaluating the model before compilation"):
        frames = frames_to_verify(eager, target, place, example)
        references = eager_references(eager, target, frames)
    with stage(f"tracing for target '{target.name}'"):
        program = export_model(eager, target, example_frames(eager, target, place, example))
    options = {**_OPTIONS, **(inductor_options or {}), "aot_inductor.metadata": metadata}
    with atomic_path(final) as path:
        with stage(f"compiling for {place} (usually about a minute)"):
            _compile(program, path, options)
            _require_sound_code(path)
        if os.environ.get(SKIP_CHECK_VARIABLE) == "1":
            say(f"not compared with the eager model, because {SKIP_CHECK_VARIABLE}=1")
            return []
        with stage("comparing with the eager model"):
            compiled = load_compiled_model(path, place)
            comparisons = compare_models(compiled, references, str(eager.model_dtype))
        say(comparison_table(comparisons))
        require_agreement(comparisons)
        add_report(path, verification_report(comparisons, references, place))
    return comparisons


def _require_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise CompileError(
            "compiling needs a C++ compiler and none works here: install g++, or name one in the "
            "environment variable CXX"
        ) from error


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
