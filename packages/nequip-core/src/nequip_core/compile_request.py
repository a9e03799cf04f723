"""How a model gets compiled by a distribution that the one who asks does not import.

Entries of the group ``nequip.compilers`` are functions ``(CompileRequest) -> CompiledFile``. They
keep what they compile, so that the same request is answered from the earlier file. Where compiling
is impossible, or has failed before for the same request, they raise `CompileError` at once;
what the user has to correct (a path, consent, a modifier, a device) is another `NequIPError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nequip_core.saved_model import SOLE_MODEL

if TYPE_CHECKING:
    from nequip_core.compile_targets import CompileTarget

__all__ = ["CompileRequest", "CompiledFile"]


@dataclass(frozen=True)
class CompileRequest:
    """A compiled form of a saved model, for the machine that asks."""

    source: Path
    """A package or checkpoint on disk."""
    target: CompileTarget
    """Fields that go in and come out."""
    device: str = "cpu"
    """Where it shall run."""
    model_name: str = SOLE_MODEL
    """Which model of the file."""
    modifiers: tuple[str, ...] = ()
    """Modifiers to apply first, in order."""
    tf32: bool = False
    """Whether matrices are multiplied in TF32 on GPUs."""
    trust_code: bool | None = None
    """Consent to run code of the file, see `nequip_core.archive.loading.load_package`."""
    retry: bool = False
    """Whether to compile although the same has failed a short time ago."""
    name: str = ""
    """The reference that `source` was got by, for the metadata; empty: the file's name is."""


@dataclass(frozen=True)
class CompiledFile:
    """The answer to a request."""

    path: Path
    """A ``.nequip.pt2`` file."""
    earlier: bool
    """Whether it was compiled before."""
