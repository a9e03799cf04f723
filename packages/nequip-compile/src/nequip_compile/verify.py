"""A compiled model must give what the eager model gives, on frames it was not traced with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from nequip_compile.export import ListInputOutput, target_inputs
from nequip_compile.structures import many_kinds
from nequip_core.compile_targets import CompileTarget
from nequip_core.errors import CompileError
from nequip_core.fields import EDGE_INDEX_KEY, get_field_type
from nequip_core.frames import Frame, batched_from_list
from nequip_core.tolerances import model_tolerance

__all__ = [
    "FieldComparison",
    "Reference",
    "compare_models",
    "eager_references",
    "float64_form",
    "require_agreement",
    "verification_frames",
]

Model = Callable[[Frame], Frame]

# The scale of a field, in its unit, is not taken to be smaller, so that fields which vanish in all
# frames do not ask for exact equality.
_SMALLEST_SCALE = 1e-2
# Relative rounding error of float64 sums over many atoms, all of one large offset.
_FLOAT64_ROUNDING = 1e-13


@dataclass(frozen=True)
class FieldComparison:
    """How far one output field of two models differs, over all frames."""

    field: str
    """Name of the field."""
    max_error: float
    """Largest absolute difference, in the unit of the field."""
    scale: float
    """Largest magnitude that the interaction of atoms gives to the field, in its unit."""
    allowed: float
    """Largest difference that passes, in the unit of the field."""
    worst: str
    """The frame with the largest difference."""
    float64_error: float | None = None
    """Largest difference from the eager model in float64 arithmetic; None where not known."""

    @property
    def passed(self) -> bool:
        """Whether the differences are allowed; NaN never is."""
        return self.max_error <= self.allowed and (
            self.float64_error is None or self.float64_error <= self.allowed
        )


def verification_frames(
    target: CompileTarget, type_names: Sequence[str], r_max: float
) -> dict[str, Frame]:
    """Return frames of several sizes and kinds, prepared for `target`, by a short description."""
    frames = many_kinds(type_names, r_max)
    prepared = {name: target.prepare(frame) for name, frame in frames.items()}
    if target.dynamic_frames:
        prepared["mixed batch"] = batched_from_list(list(frames.values()))
        prepared["batch of one"] = batched_from_list([frames["cluster"]])
        prepared["single atom alone"] = batched_from_list([frames["single atom"]])
    return prepared


@dataclass(frozen=True)
class Reference:
    """What the eager model gives for one frame."""

    inputs: Frame
    """The input fields."""
    outputs: Frame
    """The output fields."""
    isolated: Frame
    """The output fields of the same atoms without any edge."""
    exact: Frame | None = None
    """The output fields of a float32 model in float64 arithmetic, where there is such a form."""


def eager_references(
    eager: torch.nn.Module, target: CompileTarget, frames: dict[str, Frame]
) -> dict[str, Reference]:
    """Return what the eager model gives for every frame, by description.

    Args:
        eager: a graph model.
        target: fields to compare.
        frames: prepared frames on the model's device, by description.

    Raises:
        CompileError: an output is not finite, so there is nothing to compare with.
        ConfigError: the target asks for fields that there are not.
    """
    wrapper = ListInputOutput(eager, target.inputs, target.outputs)
    double = float64_form(eager)
    exact = None if double is None else ListInputOutput(double, target.inputs, target.outputs)
    references = {}
    for title, frame in frames.items():
        inputs = dict(zip(target.inputs, target_inputs(target, frame), strict=True))
        outputs = dict(zip(target.outputs, wrapper(*inputs.values()), strict=True))
        isolated = wrapper(*_without_edges(inputs).values())
        for name, values in outputs.items():
            if not bool(torch.isfinite(values).all()):
                raise CompileError(
                    f"before compilation the model's '{name}' is not finite for the frame '{title}'"
                )
        references[title] = Reference(
            inputs,
            outputs,
            dict(zip(target.outputs, isolated, strict=True)),
            None
            if exact is None
            else dict(zip(target.outputs, exact(*inputs.values()), strict=True)),
        )
    return references


def float64_form(eager: torch.nn.Module) -> torch.nn.Module | None:
    """Return a float32 model with the same weights that computes in float64; None for others.

    A part that casts to float32 by itself goes on doing so: `compare_models` uses this form only
    as far as it agrees with the model.
    """
    if getattr(eager, "model_dtype", None) != "float32":
        return None
    double = copy.deepcopy(eager).double()
    for module in double.modules():
        for name, value in list(vars(module).items()):
            if value is torch.float32:
                setattr(module, name, torch.float64)
    return double


def compare_models(
    compiled: Model, references: Mapping[str, Reference], model_dtype: str, tf32: bool = False
) -> list[FieldComparison]:
    """Return the comparison of every output field.

    A difference is measured against the part of the field that comes from the interaction of
    atoms, so that large energies of isolated atoms do not hide an error. Each field's scale is
    taken over all frames; the tolerance is `nequip_core.tolerances.model_tolerance` of it.

    Args:
        compiled: takes the fields that `references` holds as inputs.
        references: what the eager model gives, by description of the frame.
        model_dtype: ``"float32"`` or ``"float64"``.
        tf32: the compiled model multiplies matrices in TF32.

    Raises:
        CompileError: an output has another shape.
    """
    found = {title: compiled(reference.inputs) for title, reference in references.items()}
    names = list(next(iter(references.values())).outputs)
    return [
        _compare_field(
            name,
            {title: outputs[name] for title, outputs in found.items()},
            {title: reference.outputs[name] for title, reference in references.items()},
            {title: reference.isolated[name] for title, reference in references.items()},
            {
                title: reference.exact[name]
                for title, reference in references.items()
                if reference.exact is not None
            },
            model_tolerance(model_dtype, tf32=tf32),
        )
        for name in names
    ]


def _compare_field(
    name: str,
    found: Frame,
    wanted: Frame,
    isolated: Frame,
    exact: Frame,
    tolerance: float,
) -> FieldComparison:
    """Return the comparison of one field, given by frame."""
    for title, values in wanted.items():
        if found[title].shape != values.shape:
            raise CompileError(
                f"compiled and eager model disagree in the shape of '{name}' for the frame "
                f"'{title}': {tuple(found[title].shape)} against {tuple(values.shape)}"
            )
    errors = {title: _largest(found[title] - wanted[title]) for title in wanted}
    scale = max(_largest(_of_interaction(wanted[title], isolated[title])) for title in wanted)
    magnitude = max(_largest(values) for values in wanted.values())
    allowed = tolerance * max(scale, _SMALLEST_SCALE) + _FLOAT64_ROUNDING * magnitude
    float64_error = None
    if exact:
        rounding = max(_largest(wanted[title] - exact[title]) for title in wanted)
        # Where the eager model itself is further away, its own rounding decides.
        if rounding <= 0.5 * allowed:
            float64_error = max(_largest(found[title] - exact[title]) for title in wanted)
    worst = max(errors, key=lambda title: _nan_last(errors[title]))
    return FieldComparison(
        field=name,
        max_error=errors[worst],
        scale=scale,
        allowed=allowed,
        worst=worst,
        float64_error=float64_error,
    )


def _without_edges(inputs: Frame) -> Frame:
    bare = dict(inputs)
    for name, values in inputs.items():
        if name == EDGE_INDEX_KEY:
            bare[name] = values[:, :0]
        elif get_field_type(name, error_on_unregistered=False) == "edge":
            bare[name] = values[:0]
    return bare


def _of_interaction(values: torch.Tensor, isolated: torch.Tensor) -> torch.Tensor:
    """Return what a field has because of edges; all of it where the field is one of edges."""
    return values - isolated if values.shape == isolated.shape else values


def _largest(values: torch.Tensor) -> float:
    return float(values.detach().abs().max()) if values.numel() else 0.0


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def require_agreement(comparisons: Sequence[FieldComparison]) -> None:
    """Check that every field agrees.

    Raises:
        CompileError: a field does not.
    """
    failed = [one for one in comparisons if not one.passed]
    if failed:
        details = "; ".join(
            f"'{one.field}' differs by {one.max_error:.1e} (allowed {one.allowed:.1e}) in the "
            f"frame '{one.worst}'"
            for one in failed
        )
        raise CompileError(f"the compiled model does not reproduce the eager one: {details}")
