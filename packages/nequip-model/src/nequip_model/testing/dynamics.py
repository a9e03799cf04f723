"""Conservation of energy along a short trajectory."""

from __future__ import annotations

import torch

from nequip_core.fields import FORCE_KEY, POSITIONS_KEY, TOTAL_ENERGY_KEY
from nequip_core.frames import Frame
from nequip_model.testing.comparison import Model, cutoff_radius, fail, with_fresh_neighbors

__all__ = ["check_energy_conservation"]


def check_energy_conservation(
    model: Model,
    frame: Frame,
    tolerance: float = 1e-3,
    *,
    steps: int = 40,
    r_max: float | None = None,
) -> float:
    """Check that a trajectory at constant energy has no drift beyond that of its time step.

    Two velocity-Verlet runs over the same time, one with half the step of the other: their energy
    errors fall as the square of the step, so that (4 dE(h/2) - dE(h)) / 3 vanishes for forces that
    are the gradient of the energy, and not for others. Masses are 1; step and velocities follow
    from the stiffness of the model, so that the check knows no units.

    Args:
        model: what is checked.
        frame: one frame.
        tolerance: of that combination, relative to the largest change of the potential energy.
        steps: of the longer step.
        r_max: cutoff radius; default the model's.

    Returns:
        The deviation, dimensionless.

    Raises:
        AssertionError: the energy drifts, or nothing moves.
    """
    radius = cutoff_radius(model) if r_max is None else r_max
    generator = torch.Generator().manual_seed(29)
    start = frame[POSITIONS_KEY]
    random = torch.randn(start.shape, dtype=torch.float64, generator=generator).to(start)

    def evaluate(positions: torch.Tensor) -> tuple[float, torch.Tensor]:
        out = model(with_fresh_neighbors({**frame, POSITIONS_KEY: positions}, radius))
        return float(out[TOTAL_ENERGY_KEY].detach()), out[FORCE_KEY].detach()

    amplitude = 0.01 * radius
    probe = random * (0.1 * amplitude)
    change = (evaluate(start + probe)[1] - evaluate(start - probe)[1]).norm() / (2 * probe.norm())
    frequency = 3.0 * float(change) ** 0.5  # the stiffest mode is stiffer than a random one
    if frequency == 0.0:
        fail("conservation of energy", "the model exerts no forces on this frame")
    errors, exchanged = [], 0.0
    for refinement in (1, 2):
        step = 0.15 / frequency / refinement
        positions, velocities = start.clone(), random * amplitude * frequency
        potential, forces = evaluate(positions)
        first, kinetic = potential, 0.5 * float(velocities.square().sum())
        total, error = potential + kinetic, []
        for index in range(steps * refinement):
            velocities = velocities + 0.5 * step * forces
            positions = positions + step * velocities
            potential, forces = evaluate(positions)
            velocities = velocities + 0.5 * step * forces
            exchanged = max(exchanged, abs(potential - first))
            if (index + 1) % refinement == 0:
                error.append(potential + 0.5 * float(velocities.square().sum()) - total)
        errors.append(torch.tensor(error))
    drift = float(((4.0 * errors[1] - errors[0]) / 3.0).abs().max()) / exchanged
    if not drift <= tolerance:
        fail(
            "conservation of energy",
            f"a drift of {drift:.2e} of the potential energy exchanged ({exchanged:.2e}), "
            f"tolerance {tolerance:.1e}",
        )
    return drift
