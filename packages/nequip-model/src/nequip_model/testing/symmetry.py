"""Symmetries of a model: rotation, inversion, permutation, translation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nequip_core.fields import (
    BATCH_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    EDGE_VECTORS_KEY,
    FORCE_KEY,
    POSITIONS_KEY,
    get_field_type,
    is_cartesian_tensor,
)
from nequip_core.frames import Frame, frame_from_batched, num_edges, num_frames, num_nodes
from nequip_model.testing.comparison import (
    Model,
    compare,
    compare_fields,
    fail,
    outputs,
)

__all__ = [
    "FLOAT_TOLERANCE",
    "assert_AtomicData_equivariant",
    "assert_permutation_equivariant",
    "check_edge_order",
    "check_lattice_shifts",
    "check_permutation",
    "check_rotation",
    "check_translation",
    "permuted",
    "random_rotation",
]

FLOAT_TOLERANCE: dict[str | torch.dtype, float] = {
    "float32": 1e-3,
    "float64": 1e-10,
    torch.float32: 1e-3,
    torch.float64: 1e-10,
}
"""Documented tolerances of equivariance by model dtype, relative to the largest value."""

_VECTORS = frozenset({POSITIONS_KEY, FORCE_KEY, EDGE_VECTORS_KEY, "edge_forces"})
_EVEN_SCALARS = frozenset(
    {
        "total_energy",
        "atomic_energy",
        "free_energy",
        "edge_lengths",
        "normed_edge_lengths",
        "edge_cutoff",
        "edge_embedding",
        "node_attrs",
    }
)


def random_rotation(seed: int = 0) -> torch.Tensor:
    """Return a proper rotation (3, 3), float64, that acts on row vectors from the right."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    q = q * torch.diagonal(r).sign()
    return q * torch.linalg.det(q).sign()


def _representation(irreps: Any, matrix: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
    """Return (multiplicity, D) of each block of `irreps` for x -> x @ matrix, float64.

    D is solved for from harmonics of points and of the turned points: e3nn's own matrices have the
    precision of the ambient default dtype.
    """
    from e3nn import o3

    generator = torch.Generator().manual_seed(1)
    sign = torch.linalg.det(matrix).sign()
    blocks = []
    for mul, irrep in o3.Irreps(irreps):
        points = torch.randn(4 * irrep.dim, 3, dtype=torch.float64, generator=generator)
        before, after = (
            o3.spherical_harmonics(irrep.l, p, normalize=True)
            for p in (points, points @ (matrix * sign))
        )
        block = torch.linalg.lstsq(before, after).solution.T
        blocks.append((mul, block * irrep.p if sign < 0 else block))
    return blocks


def _transformed(
    key: str, value: torch.Tensor, matrix: torch.Tensor, irreps: Any, irrep_format: str
) -> torch.Tensor | None:
    """Return what a field must become when rows vectors x become x @ matrix; None if unknown."""
    if key in _VECTORS or (key == CELL_KEY and value.shape[-1] == 3):
        return value @ matrix.to(value)
    if is_cartesian_tensor(key):
        rotation = matrix.to(value)
        return rotation.T @ value.reshape(-1, 3, 3) @ rotation
    if irreps is not None and value.dim() == 2:
        parts, start = [], 0
        for mul, block in _representation(irreps, matrix):
            dim = block.shape[0]
            part = value[:, start : start + mul * dim]
            start += mul * dim
            block = block.to(value)
            if irrep_format == "mul_ir":
                part = (part.reshape(-1, mul, dim) @ block.T).reshape(part.shape)
            else:
                part = (block @ part.reshape(-1, dim, mul)).reshape(part.shape)
            parts.append(part)
        return torch.cat(parts, dim=-1)
    return value if key in _EVEN_SCALARS else None


def check_rotation(
    model: Model,
    frame: Frame,
    tolerance: float,
    *,
    irreps: Mapping[str, Any] | None = None,
    irrep_format: str = "mul_ir",
) -> list[str]:
    """Check that rotating and inverting the input rotates and inverts the output.

    Scalars stay, vectors v become v R, Cartesian tensors R^T t R, features of known irreps D(R) x.
    A field whose behaviour is known neither from its name nor from irreps is left out.

    Args:
        model: what is checked.
        frame: a frame or a batch.
        tolerance: relative to the largest value of a field.
        irreps: irreps of further fields; default the model's ``irreps_out``.
        irrep_format: ``"mul_ir"``, components fastest as in e3nn, or ``"ir_mul"``.

    Returns:
        The fields that were compared.

    Raises:
        AssertionError: a field does not transform as it must, or none could be compared.
    """
    if irrep_format not in ("mul_ir", "ir_mul"):
        raise ValueError(f"irrep_format must be 'mul_ir' or 'ir_mul', got {irrep_format!r}")
    known = dict(irreps if irreps is not None else getattr(model, "irreps_out", None) or {})
    expected = outputs(model, frame)
    compared: list[str] = []
    rotation = random_rotation(3)
    eye = torch.eye(3, dtype=torch.float64)
    for name, matrix in (("rotation", rotation), ("inversion", -eye), ("mirror", -rotation)):
        moved = dict(frame)
        for key, value in frame.items():
            changed = _transformed(key, value, matrix, None, irrep_format)
            if value.is_floating_point() and changed is not None:
                moved[key] = changed
        found = outputs(model, moved)
        compared = []
        for key, value in expected.items():
            wanted = _transformed(key, value, matrix, known.get(key), irrep_format)
            if wanted is not None:
                if key not in found:
                    fail(name, f"the output has no '{key}'")
                compare(f"{name}: {key}", found[key].reshape(wanted.shape), wanted, tolerance)
                compared.append(key)
    if not compared:
        fail("rotation", f"no field of known behaviour among {sorted(expected)}")
    return compared


def permuted(frame: Frame, order: torch.Tensor) -> Frame:
    """Return the frame with atom `order[i]` as atom i; edges keep their order."""
    inverse = torch.argsort(order)
    changed = dict(frame)
    for key, value in frame.items():
        if EDGE_INDEX_KEY in key:
            changed[key] = inverse[value]
        elif get_field_type(key, error_on_unregistered=False) == "node":
            changed[key] = value[order]
    return changed


def check_permutation(model: Model, frame: Frame, tolerance: float) -> list[str]:
    """Check that renumbering the atoms of each frame renumbers the outputs and changes nothing.

    Raises:
        AssertionError: an output depends on the numbers of the atoms.
    """
    generator = torch.Generator().manual_seed(7)
    order = torch.randperm(num_nodes(frame), generator=generator).to(frame[EDGE_INDEX_KEY].device)
    if BATCH_KEY in frame:  # atoms of a frame stay together
        order = order[torch.argsort(frame[BATCH_KEY][order], stable=True)]
    expected = outputs(model, frame)
    for key, value in expected.items():
        if get_field_type(key) == "node":
            expected[key] = value[order]
    moved = permuted(frame, order)
    # Neighbor lists are sorted by centre.
    by_centre = torch.argsort(moved[EDGE_INDEX_KEY][0], stable=True)
    return _compare_reordered(model, moved, expected, by_centre, "permutation of atoms", tolerance)


def check_edge_order(model: Model, frame: Frame, tolerance: float) -> list[str]:
    """Check that the order of the edges does not matter.

    Raises:
        AssertionError: an output depends on it.
    """
    generator = torch.Generator().manual_seed(8)
    order = torch.randperm(num_edges(frame), generator=generator).to(frame[EDGE_INDEX_KEY].device)
    what = "permutation of edges"
    return _compare_reordered(model, frame, outputs(model, frame), order, what, tolerance)


def _compare_reordered(
    model: Model, frame: Frame, expected: Frame, order: torch.Tensor, what: str, tolerance: float
) -> list[str]:
    moved, wanted = dict(frame), dict(expected)
    for fields in (moved, wanted):
        for key, value in fields.items():
            if EDGE_INDEX_KEY in key:
                fields[key] = value[:, order]
            elif get_field_type(key, error_on_unregistered=False) == "edge":
                fields[key] = value[order]
    return compare_fields(what, outputs(model, moved), wanted, tolerance)


def check_translation(model: Model, frame: Frame, tolerance: float) -> list[str]:
    """Check that moving every atom by the same vector changes nothing.

    Raises:
        AssertionError: an output depends on the origin.
    """
    offset = torch.tensor([3.7, -11.3, 2.9]).to(frame[POSITIONS_KEY])
    moved = {**frame, POSITIONS_KEY: frame[POSITIONS_KEY] + offset}
    expected = outputs(model, frame)
    return compare_fields("translation", outputs(model, moved), expected, tolerance)


def check_lattice_shifts(model: Model, frame: Frame, tolerance: float) -> list[str]:
    """Check that moving atoms by lattice vectors, edges adapted, changes nothing.

    Args:
        model: what is checked.
        frame: one frame with a cell and edge shifts.
        tolerance: relative to the largest value of a field.

    Raises:
        AssertionError: an output depends on which image of an atom is given.
    """
    generator = torch.Generator().manual_seed(9)
    shape = (num_nodes(frame), 3)
    shifts = torch.randint(-2, 3, shape, generator=generator).to(frame[POSITIONS_KEY])
    centre, neighbour = frame[EDGE_INDEX_KEY]
    moved = {
        **frame,
        POSITIONS_KEY: frame[POSITIONS_KEY] + shifts @ frame[CELL_KEY].reshape(3, 3),
        EDGE_CELL_SHIFT_KEY: frame[EDGE_CELL_SHIFT_KEY] + shifts[centre] - shifts[neighbour],
    }
    expected = outputs(model, frame)
    return compare_fields("lattice shifts", outputs(model, moved), expected, tolerance)


def assert_permutation_equivariant(
    func: Model, data_in: Frame, tolerance: float | None = None, raise_error: bool = True
) -> str:
    """Return a summary after checking the permutation of atoms and of edges.

    Args:
        func: a model, or a module that adds registered fields.
        data_in: a frame or a batch.
        tolerance: default `FLOAT_TOLERANCE` of torch's default dtype.
        raise_error: raise if a check fails, or return what it found.

    Raises:
        AssertionError: an output depends on the order.
    """
    bound = FLOAT_TOLERANCE[torch.get_default_dtype()] if tolerance is None else tolerance
    try:
        fields = check_permutation(func, data_in, bound)
        check_edge_order(func, data_in, bound)
    except AssertionError as error:
        if raise_error:
            raise
        return str(error)
    return f"permutation within {bound:.1e}: {', '.join(fields)}"


def assert_AtomicData_equivariant(  # noqa: N802 - documented name
    func: Model,
    data_in: Frame | list[Frame],
    permutation_tolerance: float | None = None,
    e3_tolerance: float | None = None,
    irrep_format: str = "mul_ir",
) -> str:
    """Return a summary after checking rotation, inversion, translation and permutation.

    Args:
        func: a model, or a module that adds registered fields and states its ``irreps_out``.
        data_in: a frame, a batch, or a list of those; the first is permuted.
        permutation_tolerance: default `FLOAT_TOLERANCE` of torch's default dtype.
        e3_tolerance: same, of rotation, inversion and translation.
        irrep_format: layout of features, ``"mul_ir"`` or ``"ir_mul"``.

    Raises:
        AssertionError: a symmetry is broken.
    """
    frames = data_in if isinstance(data_in, list) else [data_in]
    summary = assert_permutation_equivariant(func, frames[0], permutation_tolerance)
    bound = FLOAT_TOLERANCE[torch.get_default_dtype()] if e3_tolerance is None else e3_tolerance
    fields: list[str] = []
    for frame in frames:
        fields = check_rotation(func, frame, bound, irrep_format=irrep_format)
        check_translation(func, frame, bound)
        if CELL_KEY in frame and EDGE_CELL_SHIFT_KEY in frame:
            for index in range(num_frames(frame)):
                check_lattice_shifts(func, frame_from_batched(frame, index), bound)
    return f"{summary}\nrotation, inversion, translation within {bound:.1e}: {', '.join(fields)}"
