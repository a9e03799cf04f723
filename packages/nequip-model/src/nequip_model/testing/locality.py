"""Near and far: smoothness at the cutoff, and edges beyond it."""

from __future__ import annotations

import torch

from nequip_core.fields import FORCE_KEY, TOTAL_ENERGY_KEY, get_field_type
from nequip_core.frames import Frame, batched_from_list
from nequip_model.testing.comparison import (
    Model,
    compare_fields,
    cutoff_radius,
    fail,
    outputs,
    with_fresh_neighbors,
)
from nequip_model.testing.structures import atoms

__all__ = ["check_longer_neighbor_list", "check_smooth_cutoff"]

# Distance from the cutoff on either side, in units of the cutoff.
_OFFSET = 1e-6


def _cutoffs(model: Model, num_types: int, r_max: float | None) -> list[list[float]]:
    """Return the T x T table ``[centre][neighbour]`` of cutoffs, length."""
    text = getattr(model, "metadata", {}).get("per_edge_type_cutoff")
    if text is None or r_max is not None:
        radius = cutoff_radius(model) if r_max is None else r_max
        return [[radius] * num_types for _ in range(num_types)]
    values = [float(word) for word in text.split()]
    return [values[i * num_types : (i + 1) * num_types] for i in range(num_types)]


def _crossing(distance: float, first: int, second: int, r_max: float, third: bool) -> Frame:
    """Return two atoms `distance` apart, and a third one near the first if asked."""
    positions, types = [[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], [first, second]
    if third:
        positions.append([-0.2 * r_max, 0.35 * r_max, 0.1 * r_max])
        types.append(second)
    return atoms(positions, types, r_max)


def check_smooth_cutoff(
    model: Model, num_types: int, tolerance: float = 1e-4, *, r_max: float | None = None
) -> None:
    """Check that energy and forces are continuous where an atom crosses a cutoff, for each pair.

    The forces are the first derivative of the energy, so the energy has no kink either. What an
    atom feels within 1e-6 of the cutoff on either side is compared, relative to what it feels
    between 0.5 and 0.95 of the cutoff; alone with the other atom, and beside a third one.

    Args:
        model: a float64 model.
        num_types: T.
        tolerance: largest jump, relative to that scale.
        r_max: one cutoff radius of all pairs; default what the model states.

    Raises:
        AssertionError: energy or forces jump, or no pair of types interacts.
    """
    table = _cutoffs(model, num_types, r_max)
    longest = max(max(row) for row in table)
    inside = [0.5, 0.65, 0.8, 0.95]
    interacting = 0
    for first in range(num_types):
        for second in range(num_types):
            cutoff = table[first][second]
            for third in (False, True):
                multiples = [*inside, 1.0 - _OFFSET, 1.0 + _OFFSET]
                frames = [_crossing(m * cutoff, first, second, longest, third) for m in multiples]
                out = {k: v.detach() for k, v in model(batched_from_list(frames)).items()}
                energy = out[TOTAL_ENERGY_KEY].double().reshape(len(frames))
                forces = out[FORCE_KEY].double().reshape(len(frames), -1)
                quantities = {"energy": energy.unsqueeze(-1), "forces": forces}
                for name, values in quantities.items():
                    scale = float((values[:4] - values[5]).abs().max())
                    jump = float((values[4] - values[5]).abs().max())
                    interacting += scale > 0.0
                    if jump > tolerance * scale:
                        fail(
                            f"{name} at the cutoff {cutoff} of types {first} and {second}",
                            f"a jump of {jump:.2e}, {jump / scale if scale else float('inf'):.1e} "
                            f"of the scale {scale:.2e}, tolerance {tolerance:.1e}",
                        )
    if not interacting:
        fail("smoothness at the cutoff", "no pair of types interacts within its cutoff")


def check_longer_neighbor_list(
    model: Model, frame: Frame, tolerance: float, *, r_max: float | None = None
) -> list[str]:
    """Check that edges beyond the cutoff change nothing, as those of a list with a skin.

    Args:
        model: what is checked.
        frame: one frame.
        tolerance: relative to the largest value of a field.
        r_max: cutoff radius; default the model's.

    Raises:
        AssertionError: an edge beyond the cutoff has an effect, or there was none to test.
    """
    radius = cutoff_radius(model) if r_max is None else r_max
    exact, longer = (with_fresh_neighbors(frame, factor * radius) for factor in (1.0, 1.3))
    if longer["edge_index"].shape[1] == exact["edge_index"].shape[1]:
        fail("longer neighbor list", "the frame has no edge between 1.0 and 1.3 cutoff radii")
    expected = {k: v for k, v in outputs(model, exact).items() if get_field_type(k) != "edge"}
    found = {k: v for k, v in outputs(model, longer).items() if torch.is_tensor(v)}
    return compare_fields("edges beyond the cutoff", found, expected, tolerance)
