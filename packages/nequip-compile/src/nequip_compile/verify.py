"""A compiled model must give what the eager model gives, on frames it was not traced with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nequip_core.compile_targets import CompileTarget
from nequip_core.errors import CompileError
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    PBC_KEY,
    POSITIONS_KEY,
)
from nequip_core.frames import Frame, batched_from_list, from_dict
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.synthetic import synthetic_frame
from nequip_core.tolerances import model_tolerance

__all__ = ["FieldComparison", "compare_models", "comparison_table", "verification_frames"]

Model = Callable[[Frame], Frame]

# Fraction of a field's scale below which the scale is not taken to fall, so that fields which
# happen to vanish in all frames do not ask for exact equality.
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

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed; NaN never is."""
        return self.max_error <= self.allowed


def verification_frames(
    target: CompileTarget, type_names: Sequence[str], r_max: float
) -> dict[str, Frame]:
    """Return frames of several sizes and kinds, prepared for `target`, by a short description."""
    types = len(type_names)
    frames = {
        "crystal": synthetic_frame(type_names, r_max, num_atoms=max(27, types), seed=11),
        "crystal smaller than the cutoff": synthetic_frame(type_names, r_max, num_atoms=1, seed=12),
        "cluster": synthetic_frame(
            type_names, r_max, periodic=False, num_atoms=max(13, types), seed=13
        ),
        "single atom": _single_atom(r_max),
    }
    prepared = {name: target.prepare(frame) for name, frame in frames.items()}
    if target.dynamic_frames:
        prepared["mixed batch"] = batched_from_list(list(frames.values()))
        prepared["batch of one"] = batched_from_list([frames["cluster"]])
    return prepared


def _single_atom(r_max: float) -> Frame:
    """Return one atom without neighbors or cell."""
    frame = from_dict(
        {
            POSITIONS_KEY: [[0.1, 0.2, 0.3]],
            CELL_KEY: [[[0.0] * 3] * 3],
            PBC_KEY: [False] * 3,
            ATOM_TYPE_KEY: [0],
        }
    )
    return compute_neighborlist_(frame, r_max)


def compare_models(
    compiled: Model, eager: Model, target: CompileTarget, model_dtype: str, frames: dict[str, Frame]
) -> list[FieldComparison]:
    """Return the comparison of every output field, in the order of `target`.

    A difference is measured against the part of the field that comes from the interaction of
    atoms, so that large energies of isolated atoms do not hide an error. Each field's scale is
    taken over all frames; the tolerance is `nequip_core.tolerances.model_tolerance` of it.

    Args:
        compiled: takes and returns the fields of `target`.
        eager: takes the same fields.
        target: fields to compare.
        model_dtype: ``"float32"`` or ``"float64"``.
        frames: prepared frames on the models' device, by description.
    """
    tolerance = model_tolerance(model_dtype)
    names = target.outputs
    errors: dict[str, dict[str, float]] = {name: {} for name in names}
    scales, magnitudes = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for title, frame in frames.items():
        inputs = {name: frame[name] for name in target.inputs}
        reference, isolated = eager(dict(inputs)), eager(_without_edges(inputs))
        found = compiled(inputs)
        for name in names:
            if found[name].shape != reference[name].shape:
                raise CompileError(
                    f"compiled and eager model disagree in the shape of '{name}' for the frame "
                    f"'{title}': {tuple(found[name].shape)} against {tuple(reference[name].shape)}"
                )
            errors[name][title] = _largest(found[name] - reference[name])
            scales[name] = max(scales[name], _largest(reference[name] - isolated[name]))
            magnitudes[name] = max(magnitudes[name], _largest(reference[name]))
    comparisons = []
    for name in names:
        worst = max(errors[name], key=lambda title: _nan_last(errors[name][title]))
        comparisons.append(
            FieldComparison(
                field=name,
                max_error=errors[name][worst],
                scale=scales[name],
                allowed=tolerance * max(scales[name], _SMALLEST_SCALE)
                + _FLOAT64_ROUNDING * magnitudes[name],
                worst=worst,
            )
        )
    return comparisons


def _without_edges(inputs: Frame) -> Frame:
    bare = dict(inputs)
    if EDGE_INDEX_KEY in bare:
        bare[EDGE_INDEX_KEY] = bare[EDGE_INDEX_KEY][:, :0]
    if EDGE_CELL_SHIFT_KEY in bare:
        bare[EDGE_CELL_SHIFT_KEY] = bare[EDGE_CELL_SHIFT_KEY][:0]
    return bare


def _largest(values: torch.Tensor) -> float:
    return float(values.detach().abs().max()) if values.numel() else 0.0


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def comparison_table(comparisons: Sequence[FieldComparison]) -> str:
    """Return the comparisons as lines of text."""
    lines = [f"{'field':<16}{'max error':>12}{'allowed':>12}{'scale':>12}"]
    lines += [
        f"{one.field:<16}{one.max_error:>12.1e}{one.allowed:>12.1e}{one.scale:>12.1e}"
        f"  {'ok' if one.passed else 'FAILED'}"
        for one in comparisons
    ]
    return "\n".join(lines)


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
