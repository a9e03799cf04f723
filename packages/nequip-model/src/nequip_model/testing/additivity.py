"""Energies that add up: batches, supercells, separated systems, isolated atoms."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nequip_core.fields import (
    ATOM_TYPE_KEY,
    CELL_KEY,
    FORCE_KEY,
    NUM_NODES_KEY,
    PBC_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
    get_field_type,
)
from nequip_core.frames import Frame, batched_from_list, from_dict, num_nodes
from nequip_model.testing.comparison import (
    Model,
    compare,
    compare_fields,
    cutoff_radius,
    fail,
    outputs,
    with_fresh_neighbors,
)

__all__ = [
    "check_batching",
    "check_frames_are_independent",
    "check_isolated_atoms",
    "check_separation",
    "check_supercell",
]


def check_batching(model: Model, frames: Sequence[Frame], tolerance: float) -> list[str]:
    """Check that a batch gives what its frames give alone, in this order and in reverse.

    Raises:
        AssertionError: an output depends on what else is in the batch.
    """
    alone = [outputs(model, frame) for frame in frames]
    for order in (list(range(len(frames))), list(reversed(range(len(frames))))):
        together = outputs(model, batched_from_list([frames[i] for i in order]))
        expected = {key: torch.cat([alone[i][key] for i in order]) for key in alone[0]}
        compare_fields("batch", together, expected, tolerance)
    return list(alone[0])


def check_frames_are_independent(model: torch.nn.Module, frames: Sequence[Frame]) -> None:
    """Check that the energy of one frame of a batch has no gradient in the others' atoms.

    Args:
        model: what is checked; it is put in training mode for the time of the check.
        frames: at least two.

    Raises:
        AssertionError: energy leaks between frames.
    """
    batch = batched_from_list(frames)
    batch[POSITIONS_KEY] = batch[POSITIONS_KEY].clone().requires_grad_(True)
    training = model.training
    try:
        energy = model.train()(batch)[TOTAL_ENERGY_KEY]
    finally:
        model.train(training)
    start = 0
    for index, count in enumerate(batch[NUM_NODES_KEY].tolist()):
        (gradient,) = torch.autograd.grad(
            energy[index].sum(), batch[POSITIONS_KEY], retain_graph=True, allow_unused=True
        )
        others = torch.zeros(1) if gradient is None else gradient.clone()
        if gradient is not None:
            others[start : start + count] = 0.0
        if bool((others != 0.0).any()):
            fail(
                "independence of frames",
                f"the energy of frame {index} has a gradient of up to "
                f"{float(others.abs().max()):.2e} in atoms of other frames, expected exactly 0",
            )
        start += count


def check_supercell(
    model: Model,
    frame: Frame,
    tolerance: float,
    *,
    repeat: tuple[int, int, int] = (2, 1, 2),
    r_max: float | None = None,
) -> None:
    """Check that n cells have n times the energy of one, the same forces and the same stress.

    Args:
        model: what is checked.
        frame: a frame periodic along every repeated vector.
        tolerance: relative to the largest value of a field.
        repeat: cells along each vector.
        r_max: cutoff radius; default the model's.

    Raises:
        AssertionError: the energy is not extensive.
    """
    cell = frame[CELL_KEY].reshape(3, 3)
    counts = [torch.arange(n, dtype=torch.float64) for n in repeat]
    offsets = torch.cartesian_prod(*counts).to(cell) @ cell
    copies = len(offsets)
    larger = {
        POSITIONS_KEY: (frame[POSITIONS_KEY] + offsets.unsqueeze(1)).reshape(-1, 3),
        ATOM_TYPE_KEY: frame[ATOM_TYPE_KEY].repeat(copies),
        CELL_KEY: (cell * torch.tensor(repeat).to(cell).unsqueeze(-1)).unsqueeze(0),
        PBC_KEY: frame[PBC_KEY],
    }
    larger = with_fresh_neighbors(larger, cutoff_radius(model) if r_max is None else r_max)
    one, many = outputs(model, frame), outputs(model, larger)
    expected = {TOTAL_ENERGY_KEY: copies * one[TOTAL_ENERGY_KEY]}
    for key in (PER_ATOM_ENERGY_KEY, FORCE_KEY):
        if key in one:
            expected[key] = one[key].repeat(copies, 1)
    if STRESS_KEY in one:
        expected[STRESS_KEY] = one[STRESS_KEY]
    compare_fields(f"supercell of {copies} cells", many, expected, tolerance)


def check_separation(
    model: Model, first: Frame, second: Frame, tolerance: float, *, r_max: float | None = None
) -> None:
    """Check that two clusters far apart have the sum of their energies, and their own forces.

    Args:
        model: what is checked.
        first: a cluster, not periodic.
        second: another.
        tolerance: relative to the largest value of a field.
        r_max: cutoff radius; default the model's.

    Raises:
        AssertionError: the two know of each other.
    """
    radius = cutoff_radius(model) if r_max is None else r_max
    pair = [first, second]
    extent = max(float((f[POSITIONS_KEY].max() - f[POSITIONS_KEY].min()).abs()) for f in pair)
    offset = torch.tensor([2.0 * extent + 20.0 * radius, 0.0, 0.0]).to(first[POSITIONS_KEY])
    joined = from_dict(
        {
            POSITIONS_KEY: torch.cat([first[POSITIONS_KEY], second[POSITIONS_KEY] + offset]),
            ATOM_TYPE_KEY: torch.cat([f[ATOM_TYPE_KEY] for f in pair]),
            CELL_KEY: torch.zeros_like(first[CELL_KEY]) if CELL_KEY in first else None,
            PBC_KEY: [False] * 3,
        }
    )
    alone = [outputs(model, frame) for frame in pair]
    expected = {TOTAL_ENERGY_KEY: alone[0][TOTAL_ENERGY_KEY] + alone[1][TOTAL_ENERGY_KEY]}
    for key in alone[0]:
        if get_field_type(key) == "node":
            expected[key] = torch.cat([out[key] for out in alone])
    found = outputs(model, with_fresh_neighbors(joined, radius))
    compare_fields("two systems far apart", found, expected, tolerance)


def check_isolated_atoms(
    model: Model,
    energies: Sequence[float],
    tolerance: float,
    *,
    r_max: float | None = None,
) -> None:
    """Check that an atom without neighbours has its own energy, and no force.

    Args:
        model: what is checked.
        energies: T expected energies in the order of the types.
        tolerance: relative to the largest of them.
        r_max: cutoff radius; default the model's.

    Raises:
        AssertionError: an energy differs, or a force is not zero.
    """
    radius = cutoff_radius(model) if r_max is None else r_max
    count = len(energies)
    positions = torch.zeros(count, 3, dtype=torch.float64)
    positions[:, 0] = 20.0 * radius * torch.arange(count, dtype=torch.float64)
    frame = from_dict({POSITIONS_KEY: positions, ATOM_TYPE_KEY: torch.arange(count)})
    parameter = next(iter(getattr(model, "parameters", lambda: iter(()))()), positions)
    frame = {key: value.to(parameter.device) for key, value in frame.items()}
    found = outputs(model, with_fresh_neighbors(frame, radius))
    expected = torch.tensor(list(energies), dtype=torch.float64).reshape(-1, 1)
    if num_nodes(frame) != found[PER_ATOM_ENERGY_KEY].shape[0]:
        fail("isolated atoms", f"{found[PER_ATOM_ENERGY_KEY].shape[0]} energies for {count} atoms")
    compare("energy of isolated atoms", found[PER_ATOM_ENERGY_KEY], expected, tolerance)
    if FORCE_KEY in found:
        zero = torch.zeros(count, 3)
        compare("forces on isolated atoms", found[FORCE_KEY], zero, tolerance)
