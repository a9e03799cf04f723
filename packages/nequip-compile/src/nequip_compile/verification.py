"""The verification of a compiled file: compared, differentiated, printed, its report kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nequip_compile.physics import Physics, check_physics, require_physics
from nequip_compile.progress import say, stage
from nequip_compile.report import add_report, verification_report, verification_table
from nequip_compile.sizes import sizes_of_file
from nequip_compile.structures import small_structures
from nequip_compile.verify import (
    FieldComparison,
    Reference,
    compare_models,
    require_agreement,
)
from nequip_core.compile_targets import CompileTarget
from nequip_core.compiled import CompiledModel, load_compiled_model
from nequip_core.errors import CompileError, NequIPError
from nequip_core.frames import Frame

__all__ = ["Verification", "note_skipped", "physics_of", "running", "uses_tf32", "verify_compiled"]


_OF_SOME_SIZES = Physics(
    checks=[],
    not_checked={"forces": "the file was compiled for some sizes only"},
)


@dataclass(frozen=True)
class Verification:
    """What was found out about a compiled model."""

    physics: Physics
    """What holds of it by itself."""
    comparisons: list[FieldComparison] = field(default_factory=list)
    """How far each output field is from that of the eager model; empty if not compared."""

    @property
    def passed(self) -> bool:
        """Whether everything that was checked holds."""
        return all(one.passed for one in self.comparisons) and all(
            one.passed for one in self.physics.checks
        )


def verify_compiled(
    path: Path,
    eager: torch.nn.Module,
    target: CompileTarget,
    references: Mapping[str, Reference],
    device: torch.device,
) -> list[FieldComparison]:
    """Verify a file that was just compiled, and write the report into it.

    Progress and the result go to standard error.

    Args:
        path: the compiled file.
        eager: the model it was compiled from, on `device`.
        target: fields that the file takes and returns.
        references: what `eager` gives, see `nequip_compile.verify.eager_references`.
        device: where to run.

    Returns:
        The comparison with the eager model for each output field.

    Raises:
        CompileError: the compiled model does not reproduce the eager one, its forces or stress are
            not derivatives of its energy, or the report cannot be written.
    """
    with stage("comparing with the eager model"):
        compiled = load_compiled_model(path, device)
        dtype, tf32 = compiled.model_dtype, uses_tf32(compiled)
        comparisons = compare_models(running(compiled), references, dtype, tf32)
    with stage("comparing forces and stress with finite differences of its energy"):
        found = Verification(physics_of(compiled, target), comparisons)
    say(verification_table(comparisons, found.physics))
    require_agreement(comparisons)
    require_physics(found.physics, "" if found.passed else _blame(eager, target, device))
    add_report(path, verification_report(comparisons, references, found.physics, device))
    return comparisons


def note_skipped(path: Path, variable: str) -> None:
    """Write into a compiled file that it was not verified, because `variable` is 1.

    Raises:
        CompileError: the file cannot be written.
    """
    say(f"not compared with the eager model, because {variable}=1")
    add_report(path, {"skipped": f"{variable}=1", "torch": torch.__version__})


def uses_tf32(compiled: CompiledModel) -> bool:
    """Return whether the model multiplies in TF32 where it runs: only NVIDIA GPUs have it."""
    return compiled.allow_tf32 and compiled.device.type == "cuda"


def running(compiled: CompiledModel) -> Callable[[Frame], Frame]:
    """Return the model as a function whose failures are errors of compilation.

    Where the metadata of a file contradict its code, torch raises errors of its own.
    """

    def run(data: Frame) -> Frame:
        try:
            return compiled(data)
        except NequIPError:
            raise
        except (RuntimeError, ValueError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CompileError(f"the code of '{compiled.path}' fails: {first}") from error

    return run


def physics_of(compiled: CompiledModel, target: CompileTarget) -> Physics:
    """Return what holds of a compiled model by itself.

    Nothing is said of a file for some sizes only that leave out the small frames of this check.
    TF32 is off meanwhile: its rounding, a thousandth, hides errors of a hundredth in finite
    differences. How far TF32 changes the outputs is for the comparison with the eager model.
    """
    if not sizes_of_file(compiled.metadata).hold_small_batches:
        return _OF_SOME_SIZES
    precise = copy.copy(compiled)
    precise.allow_tf32 = False
    frames = small_structures(compiled.type_names, compiled.r_max)
    return check_physics(
        running(precise), target, frames, compiled.r_max, compiled.model_dtype, compiled.device
    )


def _blame(eager: torch.nn.Module, target: CompileTarget, device: torch.device) -> str:
    """Return a sentence on whether the model contradicted itself before compilation."""
    frames = small_structures(eager.type_names, eager.r_max)  # type: ignore[arg-type]
    physics = check_physics(
        lambda data: eager(dict(data)),
        target,
        frames,
        float(eager.r_max),  # type: ignore[arg-type]
        str(eager.model_dtype),
        device,
    )
    try:
        require_physics(physics)
    except CompileError:
        return ". So does the model before compilation: its modifiers or its code are wrong"
    return ". The model before compilation does not: the compiler is wrong"
