"""Derivatives of the energy against finite differences, and what follows from their existence.

All of it in float64: rounding in float32 hides what these checks look for. Tie a float32 model to
its float64 twin with `nequip_model.testing.construction.check_precision`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from nequip_core.fields import (
    CELL_KEY,
    FORCE_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
    VIRIAL_KEY,
)
from nequip_core.frames import Frame, batched_from_list
from nequip_model.testing.comparison import (
    SMALLEST_SCALE,
    Model,
    compare,
    cutoff_radius,
    fail,
    with_fresh_neighbors,
)

__all__ = [
    "check_force_jacobian",
    "check_forces",
    "check_net_force_and_torque",
    "check_parameter_gradients",
    "check_partial_forces",
    "check_stress",
]

# Central differences of fourth order: f' = sum_k w_k f(k h) / h, error f'''''(0) h^4 / 30.
_STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))
# Step in units of the cutoff radius: rounding 1e-16 E / h and truncation are both below 1e-9.
_STEP = 5e-4


def _strained(frame: Frame, deformation: torch.Tensor) -> Frame:
    """Return the frame with row vectors x -> x + x @ deformation."""
    changed = dict(frame)
    changed[POSITIONS_KEY] = frame[POSITIONS_KEY] + frame[POSITIONS_KEY] @ deformation
    if CELL_KEY in frame:
        changed[CELL_KEY] = frame[CELL_KEY] + frame[CELL_KEY] @ deformation
    return changed


def _differences(model: Model, displaced: list[list[Frame]], step: float, r: float) -> torch.Tensor:
    """Return dE/dx for each list of four frames of the stencil, from one evaluation."""
    frames = [with_fresh_neighbors(frame, r) for stencil in displaced for frame in stencil]
    energies = model(batched_from_list(frames))[TOTAL_ENERGY_KEY].detach().double().reshape(-1, 4)
    weights = torch.tensor([w for _, w in _STENCIL], dtype=torch.float64, device=energies.device)
    return energies @ weights / step


def check_forces(
    model: Model, frame: Frame, tolerance: float = 1e-6, *, r_max: float | None = None
) -> float:
    """Check that every force is minus the derivative of the total energy; return the deviation.

    Args:
        model: a float64 model.
        frame: one frame.
        tolerance: relative to the largest force.
        r_max: cutoff radius; default the model's. The neighbor list is made anew at each step.

    Raises:
        AssertionError: a force differs.
    """
    radius = cutoff_radius(model) if r_max is None else r_max
    step, positions = _STEP * radius, frame[POSITIONS_KEY]
    displaced = []
    for component in range(positions.numel()):
        stencil = []
        for multiple, _ in _STENCIL:
            moved = positions.clone()
            moved.view(-1)[component] += multiple * step
            stencil.append({**frame, POSITIONS_KEY: moved})
        displaced.append(stencil)
    numeric = -_differences(model, displaced, step, radius).reshape(positions.shape)
    return compare("forces against -dE/dpos", model(frame)[FORCE_KEY], numeric, tolerance)


def check_stress(
    model: Model, frame: Frame, tolerance: float = 1e-6, *, r_max: float | None = None
) -> float:
    """Check virial = -dE/d(strain) and stress = -virial / volume; return the deviation.

    Args:
        model: a float64 model.
        frame: one frame; ``stress`` is compared where the cell has a volume.
        tolerance: relative to the largest component.
        r_max: cutoff radius; default the model's.

    Raises:
        AssertionError: a component differs.
    """
    radius = cutoff_radius(model) if r_max is None else r_max
    displaced = []
    for i in range(3):
        for j in range(3):
            stencil = []
            for multiple, _ in _STENCIL:
                strain = torch.zeros(3, 3).to(frame[POSITIONS_KEY])
                strain[i, j] += multiple * _STEP / 2
                strain[j, i] += multiple * _STEP / 2
                stencil.append(_strained(frame, strain))
            displaced.append(stencil)
    by_strain = _differences(model, displaced, _STEP, radius).reshape(1, 3, 3)
    out = model(frame)
    deviation = 0.0
    if VIRIAL_KEY in out:
        deviation = compare("virial against -dE/dstrain", out[VIRIAL_KEY], -by_strain, tolerance)
    volume = torch.linalg.det(frame[CELL_KEY].reshape(3, 3)).abs() if CELL_KEY in frame else None
    if STRESS_KEY in out and volume is not None and float(volume) > 0.0:
        # Times the volume, so that both have the scale of an energy.
        found = out[STRESS_KEY] * volume
        what = "stress against dE/dstrain / volume"
        deviation = max(deviation, compare(what, found, by_strain, tolerance))
    elif VIRIAL_KEY not in out:
        fail("stress", f"the model gives neither stress nor virial: {sorted(out)}")
    return deviation


def _with_graph(model: torch.nn.Module, frame: Frame) -> tuple[Frame, torch.Tensor]:
    """Return differentiable outputs and the positions they can be differentiated by."""
    positions = frame[POSITIONS_KEY].detach().clone().requires_grad_(True)
    training = model.training
    try:
        return model.train()({**frame, POSITIONS_KEY: positions}), positions
    finally:
        model.train(training)


def check_force_jacobian(model: torch.nn.Module, frame: Frame, tolerance: float = 1e-9) -> float:
    """Check that dF_i/dx_j = dF_j/dx_i, the sign of a potential; return the deviation.

    Args:
        model: a float64 model, whose forces can be differentiated in training mode.
        frame: one small frame.
        tolerance: relative to the largest element.

    Raises:
        AssertionError: the forces are not a gradient.
    """
    out, positions = _with_graph(model, frame)
    rows = []
    for component in out[FORCE_KEY].reshape(-1):
        (row,) = torch.autograd.grad(component, positions, retain_graph=True)
        rows.append(row.reshape(-1))
    jacobian = torch.stack(rows)
    if not bool(jacobian.any()):
        fail("force Jacobian", "it is zero everywhere, so the check would say nothing")
    return compare("symmetry of the force Jacobian", jacobian, jacobian.T, tolerance)


def check_partial_forces(
    model: torch.nn.Module,
    frame: Frame,
    tolerance: float = 1e-6,
    *,
    strict_locality: bool,
    r_max: float | None = None,
) -> float:
    """Check -dE_i/dx_j: the sum over i is the force on j; zero beyond the cutoff if strictly local.

    Also compares the derivatives by one atom with finite differences of every atomic energy.

    Args:
        model: a float64 model that gives ``atomic_energy``.
        frame: a cluster wider than the cutoff.
        tolerance: relative to the largest value.
        strict_locality: the model states that an atom sees no further than the cutoff.
        r_max: cutoff radius; default the model's.

    Raises:
        AssertionError: one of the three does not hold.
    """
    radius = cutoff_radius(model) if r_max is None else r_max
    out, positions = _with_graph(model, frame)
    partial = torch.stack(
        [
            -torch.autograd.grad(energy, positions, retain_graph=True)[0]
            for energy in out[PER_ATOM_ENERGY_KEY].reshape(-1)
        ]
    )
    deviation = compare("sum of the partial forces", partial.sum(0), out[FORCE_KEY], tolerance)
    if strict_locality:
        points = positions.detach()
        beyond = torch.cdist(points, points) > radius
        if not bool(beyond.any()):
            fail("strict locality", f"no two atoms are further apart than {radius}")
        if bool(partial[beyond].any()):
            fail(
                "strict locality",
                f"partial forces of up to {float(partial[beyond].abs().max()):.2e} beyond the "
                f"cutoff radius {radius}, expected exactly 0",
            )
    step, frames = _STEP * radius, []
    for multiple, _ in _STENCIL:
        moved = frame[POSITIONS_KEY].clone()
        moved[0, 1] += multiple * step
        frames.append(with_fresh_neighbors({**frame, POSITIONS_KEY: moved}, radius))
    energies = model(batched_from_list(frames))[PER_ATOM_ENERGY_KEY].detach().double()
    weights = torch.tensor([w for _, w in _STENCIL], dtype=torch.float64, device=energies.device)
    numeric = -(weights @ energies.reshape(4, -1)) / step
    found = partial[:, 0, 1]
    return max(deviation, compare("partial forces on atom 0", found, numeric, tolerance))


def check_net_force_and_torque(model: Model, frame: Frame, tolerance: float) -> None:
    """Check that the forces on a cluster sum to zero, and so do their torques.

    Raises:
        AssertionError: a cluster would start to move or spin by itself.
    """
    forces, positions = model(frame)[FORCE_KEY].detach(), frame[POSITIONS_KEY]
    arm = positions - positions.mean(0)
    torques = torch.linalg.cross(arm, forces)
    zero = torch.zeros(3, dtype=torch.float64)
    for what, parts in (("net force", forces), ("net torque", torques)):
        # Relative to what cancels, the sum of the magnitudes.
        scale = max(float(parts.abs().sum()), SMALLEST_SCALE)
        compare(what, parts.sum(0) * (SMALLEST_SCALE / scale), zero, tolerance)


def _loss(model: torch.nn.Module, batch: Frame) -> torch.Tensor:
    """Return a loss in energy, forces and stress whose gradient is nowhere zero by accident."""
    out = model(dict(batch))
    atoms = out[FORCE_KEY].shape[0] if FORCE_KEY in out else 1
    loss = (out[TOTAL_ENERGY_KEY] / atoms - 0.3).square().sum()
    for key, target in ((FORCE_KEY, 0.1), (STRESS_KEY, 0.02)):
        if key in out:
            loss = loss + (out[key] - target).square().sum()
    return loss


def _along(
    model: torch.nn.Module, batch: Frame, parameter: torch.Tensor, direction: torch.Tensor
) -> tuple[float, float]:
    """Return the numerical derivative of the loss along a direction, and its rounding error.

    The parameter is afterwards what it was.
    """
    original = parameter.detach().clone()
    step = 2e-3 * max(float(original.norm()), 1e-2)
    numeric, loss = 0.0, 0.0
    try:
        for multiple, weight in _STENCIL:
            parameter.data.copy_(original + multiple * step * direction)
            loss = float(_loss(model, batch).detach())
            numeric += weight * loss / step
    finally:
        parameter.data.copy_(original)
    return numeric, 16 * torch.finfo(torch.float64).eps * abs(loss) / step


def _check_presence(
    gradients: Mapping[str, torch.Tensor | None], without_gradient: Collection[str]
) -> None:
    """Raise unless exactly the declared parameters have no gradient."""
    empty = {name for name, g in gradients.items() if g is None or not bool((g != 0.0).any())}
    if missing := sorted(empty - set(without_gradient)):
        fail(
            "gradient of the loss",
            f"energy, forces and stress do not depend on {missing}; a parameter that has no effect "
            "by design is declared in without_gradient",
        )
    if wrong := sorted(set(without_gradient) - empty):
        fail("gradient of the loss", f"declared to have none, but not so: {wrong}")


def check_parameter_gradients(
    model: torch.nn.Module,
    frames: Sequence[Frame],
    tolerance: float = 1e-6,
    *,
    without_gradient: Collection[str] = (),
) -> float:
    """Check d(loss)/d(parameter) for every parameter, the loss of energy, forces and stress.

    Each parameter is moved along a direction half its gradient and half random, and the loss is
    differentiated numerically.

    Args:
        model: a float64 model; in training mode for the time of the check.
        frames: frames in which every type occurs.
        tolerance: relative to the derivative along the direction; the rounding of the loss is
            allowed for.
        without_gradient: names of parameters that are declared to have none.

    Returns:
        The largest deviation.

    Raises:
        AssertionError: a gradient is missing, zero, not finite or wrong; or none was expected.
        ValueError: the model has no trainable parameter.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("the model has no trainable parameter: there is nothing to check")
    batch = batched_from_list(frames)
    training = model.training
    generator = torch.Generator().manual_seed(23)
    worst = 0.0
    try:
        model.train()
        gradients = torch.autograd.grad(
            _loss(model, batch), list(parameters.values()), allow_unused=True
        )
        found = dict(zip(parameters, gradients, strict=True))
        _check_presence(found, without_gradient)
        for name, parameter in parameters.items():
            what, gradient = f"gradient of the loss in '{name}'", found[name]
            if gradient is None or name in without_gradient:
                continue
            noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            noise = noise.to(gradient)
            direction = gradient / gradient.norm() + noise / noise.norm()
            direction = direction / direction.norm()
            numeric, rounding = _along(model, batch, parameter, direction)
            exact = float((gradient * direction).sum())
            # Relative to the derivative itself, as gradients of parameters differ by many decades;
            # below what the rounding of the loss lets one see, to that.
            deviation = abs(exact - numeric) / max(abs(exact), rounding / tolerance)
            if not deviation <= tolerance:
                fail(
                    what,
                    f"deviation {deviation:.2e}, tolerance {tolerance:.1e}; along a direction "
                    f"found {exact:.12g}, by finite differences {numeric:.12g}",
                )
            worst = max(worst, deviation)
    finally:
        model.train(training)
    return worst
