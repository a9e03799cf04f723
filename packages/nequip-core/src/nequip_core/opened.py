"""Models opened for prediction, compiled or not, with what an engine asks of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nequip_core.compile_request import CompileRequest
from nequip_core.compiled import CompiledModel
from nequip_core.cutoffs import cutoff_table_from_text
from nequip_core.errors import ConfigError
from nequip_core.fingerprint import available_device
from nequip_core.modifiers import apply_modifiers
from nequip_core.precision import matrix_precision
from nequip_core.saved_model import load_saved_model, select_model
from nequip_core.stated_facts import FACTS_KEY, facts_from_text, stated_facts

if TYPE_CHECKING:
    import torch

    from nequip_core.frames import Frame

__all__ = ["OpenedModel", "open_eagerly", "opened_compiled"]


@dataclass(frozen=True)
class OpenedModel:
    """A model, ready to be called with a frame that has atom types and a neighbor list."""

    model: Callable[[Frame], Frame]
    """Returns the output fields of a frame; a module, or a `CompiledModel`."""
    type_names: list[str]
    """Type names in the order of the type index."""
    r_max: float
    """Cutoff radius, in the model's unit of length."""
    per_edge_type_cutoff: list[list[float]] | None
    """Shorter cutoffs, row = centre type, in the same unit; None for `r_max`."""
    model_dtype: str
    """``float32`` or ``float64``; input and output are float64 either way."""
    device: torch.device
    """Where inputs go."""
    way: str
    """One line: how the model was opened, and why so."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the file states of units and training set, see `nequip_core.stated_facts`."""


def opened_compiled(model: CompiledModel, way: str) -> OpenedModel:
    """Return a compiled model with what an engine asks of it."""
    return OpenedModel(
        model=model,
        type_names=model.type_names,
        r_max=model.r_max,
        per_edge_type_cutoff=model.per_edge_type_cutoff,
        model_dtype=model.model_dtype,
        device=model.device,
        way=way,
        facts=facts_from_text(model.metadata.get(FACTS_KEY, "")),
    )


def open_eagerly(request: CompileRequest, way: str = "runs without compilation") -> OpenedModel:
    """Return a saved model as it is, in eval mode, without compilation.

    Args:
        request: which model; its target plays no role.
        way: for `OpenedModel.way`.

    Raises:
        NequIPError: see `nequip_core.runtime.open_model`.
    """
    place = available_device(request.device)
    saved = load_saved_model(request.source, request.trust_code)
    model = select_model(saved, request.model_name)
    entries = [{"modifier": name} for name in request.modifiers]
    module: Any = apply_modifiers(model, entries, str(place)).eval().requires_grad_(False)
    metadata = module.metadata
    if request.tf32 and metadata["model_dtype"] != "float32":
        raise ConfigError(
            f"TF32 is for models with model_dtype float32, '{request.source}' has "
            f"{metadata['model_dtype']}"
        )
    module = module.to(place)
    names = list(module.type_names)
    return OpenedModel(
        model=_with_tf32(module, place) if request.tf32 else module,
        type_names=names,
        r_max=float(module.r_max),
        per_edge_type_cutoff=cutoff_table_from_text(
            metadata.get("per_edge_type_cutoff"), len(names)
        ),
        model_dtype=metadata["model_dtype"],
        device=place,
        way=way,
        facts=stated_facts(saved),
    )


def _with_tf32(module: torch.nn.Module, device: torch.device) -> Callable[[Frame], Frame]:
    def call(data: Frame) -> Frame:
        with matrix_precision(True, device):
            return module(data)

    return call
