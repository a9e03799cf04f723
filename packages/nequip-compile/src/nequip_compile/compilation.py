"""From a saved model on disk to compiled files: what the command and the service both do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_compile.modes import AOTINDUCTOR, TORCHSCRIPT
from nequip_compile.progress import stage
from nequip_compile.sizes import ANY_SIZES, Sizes
from nequip_compile.source import Source
from nequip_core.errors import CompileError
from nequip_core.saved_model import SOLE_MODEL

if TYPE_CHECKING:
    import torch

    from nequip_core.compile_targets import CompileTarget
    from nequip_core.frames import Frame

__all__ = ["Compilation", "compile_files"]


@dataclass(frozen=True)
class Compilation:
    """Which model is compiled and how, for whatever targets."""

    path: Path
    """The saved model."""
    digest: str
    """SHA-256 of that file, hexadecimal."""
    name: str
    """What compiled files say they were made from: its file name, or a reference."""
    mode: str = AOTINDUCTOR
    """One of `nequip_compile.modes.MODES`."""
    device: str = "cpu"
    """Where the compiled model shall run."""
    model_name: str = SOLE_MODEL
    """Which model of the file."""
    modifiers: tuple[str, ...] = ()
    """Modifiers to apply first, in order."""
    tf32: bool = False
    """Whether matrices are multiplied in TF32 on GPUs."""
    data_path: Path | None = None
    """A frame to trace and compare with, see `nequip_compile.example_data`."""
    inductor_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of `torch._inductor.config`."""
    bounds: Sizes = ANY_SIZES
    """Sizes that the compiled model is for; of `AOTINDUCTOR` only."""
    trust_code: bool | None = None
    """Consent to run code of the saved model."""

    @property
    def source(self) -> Source:
        """What compiled files state of their origin."""
        return Source(self.name, self.digest, self.model_name, self.modifiers)


def compile_files(compilation: Compilation, outputs: Mapping[Path, CompileTarget | None]) -> None:
    """Compile a saved model for every target, and write the files: all of them or none.

    Progress goes to standard error.

    Args:
        compilation: which model and how.
        outputs: target by the path to write; None is for TorchScript only, and means all targets.

    Raises:
        CompileError: it cannot be compiled, or its compiled form is wrong.
        NequIPError: the file, or what is asked of it, has to be corrected.
    """
    with stage(f"reading {compilation.path}"):
        model, facts = _model(compilation)
    settings: dict[str, Any] = {
        "tf32": compilation.tf32,
        "example": _example(compilation.data_path, model),
        "source": replace(compilation.source, facts=facts),
    }
    try:
        if compilation.mode == TORCHSCRIPT:
            from nequip_compile import torchscript

            for path, target in outputs.items():
                torchscript.compile_model(model, path, target, compilation.device, **settings)
        else:
            from nequip_compile import aotinductor

            aotinductor.compile_models(
                model,
                {path: target for path, target in outputs.items() if target is not None},
                compilation.device,
                inductor_options=compilation.inductor_options,
                bounds=compilation.bounds,
                **settings,
            )
    except CompileError as error:
        raise CompileError(f"{error}{_way_out(model)}") from error


def _model(compilation: Compilation) -> tuple[torch.nn.Module, str]:
    """Return the model to compile, modified, and the text of what its file states."""
    from nequip_compile.modified import modified_model
    from nequip_core.modifiers import only_apply_persistent_modifiers
    from nequip_core.saved_model import load_saved_model, select_model
    from nequip_core.stated_facts import facts_text, stated_facts

    # Accelerations that a training used are of its machine: those wanted here are asked for.
    with only_apply_persistent_modifiers():
        saved = load_saved_model(compilation.path, trust_code=compilation.trust_code)
    model = select_model(saved, compilation.model_name)
    modified = modified_model(model, compilation.modifiers, compilation.device, compilation.mode)
    return modified, facts_text(stated_facts(saved))


def _example(path: Path | None, model: Any) -> Frame | None:
    if path is None:
        return None
    from nequip_compile.example_data import load_example

    return load_example(path, list(model.type_names), float(model.r_max))


def _way_out(model: torch.nn.Module) -> str:
    """Return what to do with a model that runs code of NequIP's own package, or nothing."""
    # Modules of a package are called <torch_package_0>.nequip.nn..., for instance.
    if ".nequip." not in type(model).__module__:
        return ""
    return (
        "; this model runs NequIP's own code, out of its package: nequip-package convert makes a "
        "package with the same predictions that compiles"
    )
