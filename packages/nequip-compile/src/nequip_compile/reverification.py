"""The verification of a compiled file that exists, with or without the model it came from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from nequip_compile.example_data import load_example
from nequip_compile.modified import modified_model
from nequip_compile.preparation import adapted_model, frames_to_verify, prepared_model
from nequip_compile.progress import stage
from nequip_compile.report import verification_report
from nequip_compile.sizes import sizes_of_file
from nequip_compile.verification import Verification, physics_of, running, uses_tf32
from nequip_compile.verify import FieldComparison, Reference, compare_models, eager_references
from nequip_core.compile_targets import CompileTarget, custom_target
from nequip_core.compiled import CompiledModel, load_compiled_model
from nequip_core.compiled_metadata import (
    MODIFIERS_KEY,
    SOURCE_MODEL_KEY,
    TARGET_KEY,
    TORCHSCRIPT_SUFFIX,
)
from nequip_core.errors import ConfigError
from nequip_core.plugins import COMPILE_TARGETS, import_extensions, load_plugin, plugin_names

__all__ = ["target_of", "verify_again"]


def verify_again(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    trust_code: bool | None = None,
    data_path: str | os.PathLike[str] | None = None,
) -> tuple[Verification, dict[str, Any]]:
    """Return what holds of a compiled file on this machine, and the report as plain data.

    Progress goes to standard error. A failed check is no exception: see `Verification.passed`.

    Args:
        path: the compiled file; it stays as it is.
        source: the saved model it was compiled from; None: it is not compared with.
        device: where to run.
        trust_code: consent to run code that `source` carries.
        data_path: a frame to compare on, besides made-up ones, see `nequip_compile.example_data`.

    Raises:
        MissingFileError: a file is not there.
        FileFormatError: a file is damaged, or compiled for another machine.
        ConfigError: `source` is of another model than the compiled file, or has other modifiers.
    """
    with stage(f"loading {path}"):
        compiled = load_compiled_model(path, device)
        target = target_of(compiled)
    comparisons: list[FieldComparison] = []
    references: dict[str, Reference] = {}
    if source is not None:
        with stage(f"evaluating {source}"):
            eager = adapted_model(_eager(compiled, source, trust_code), target)
            example = None
            if data_path is not None:
                example = load_example(Path(data_path), compiled.type_names, compiled.r_max)
            sizes = sizes_of_file(compiled.metadata)
            frames = frames_to_verify(eager, target, compiled.device, example, sizes)
            frames = {
                title: frame
                for title, frame in frames.items()
                if all(name in frame for name in target.inputs)
            }
            references = eager_references(eager, target, frames)
        with stage("comparing with the eager model"):
            comparisons = _compared(compiled, eager, references)
    with stage("comparing forces and stress with finite differences of its energy"):
        found = Verification(physics_of(compiled, target), comparisons)
    report = verification_report(found.comparisons, references, found.physics, compiled.device)
    return found, report


def target_of(compiled: CompiledModel) -> CompileTarget:
    """Return the compile target of a file: the registered one, or one made from its fields."""
    name = compiled.metadata.get(TARGET_KEY, "")
    if name in plugin_names(COMPILE_TARGETS):
        known = load_plugin(COMPILE_TARGETS, name)
    else:
        import_extensions()
        from nequip_core.compile_registration import registered_targets

        known = registered_targets().get(name)
    fields = (compiled.inputs, compiled.outputs)
    if known is not None and (known.inputs, known.outputs) == fields:
        return known
    return custom_target(*fields)


def _eager(
    compiled: CompiledModel, source: str | os.PathLike[str], trust_code: bool | None
) -> torch.nn.Module:
    """Return the model of `source` that the file was compiled from, as it was compiled.

    Raises:
        ConfigError: it is of other types or another cutoff.
    """
    from nequip_core.modifiers import only_apply_persistent_modifiers
    from nequip_core.saved_model import SOLE_MODEL, load_saved_model, select_model

    with only_apply_persistent_modifiers():
        saved = load_saved_model(source, trust_code=trust_code)
    model = select_model(saved, compiled.metadata.get(SOURCE_MODEL_KEY, SOLE_MODEL))
    modifiers = compiled.metadata.get(MODIFIERS_KEY, "").split()
    script = Path(compiled.path).name.endswith(TORCHSCRIPT_SUFFIX)
    mode = "torchscript" if script else "aotinductor"
    model = modified_model(model, modifiers, str(compiled.device), mode)
    facts = (list(model.type_names), float(model.r_max))  # type: ignore[arg-type]
    if facts != (compiled.type_names, compiled.r_max):
        raise ConfigError(
            f"'{source}' is another model than '{compiled.path}': its types and cutoff are "
            f"{facts[0]} and {facts[1]}, those of the compiled file {compiled.type_names} and "
            f"{compiled.r_max}"
        )
    return prepared_model(model, compiled.device)


def _compared(
    compiled: CompiledModel, eager: torch.nn.Module, references: dict[str, Reference]
) -> list[FieldComparison]:
    # A file may be of another dtype than its source: the coarser of the two decides.
    dtypes = (compiled.model_dtype, str(eager.model_dtype))
    coarser = "float32" if "float32" in dtypes else "float64"
    return compare_models(running(compiled), references, coarser, uses_tf32(compiled))
