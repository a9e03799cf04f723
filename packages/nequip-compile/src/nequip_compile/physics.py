"""What must hold of a compiled model by itself: its forces and stress are those of its energy.

A comparison with the eager model says nothing where both take the same wrong way, for instance
through an accelerated operation. Derivatives of the compiled model's own energy do.

Derivatives are central differences with a measured error (`nequip_compile.differences`). Three
times that error and the tolerance of the dtype are allowed, but never more than `LARGEST_ALLOWED`
of the largest value: a check too coarse to see an error of one percent fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from nequip_compile.differences import (
    POINTS,
    derivative,
    directions_of,
    labels_of,
    strained,
)
from nequip_compile.evaluation import Outputs, evaluated
from nequip_core.compile_targets import CompileTarget
from nequip_core.errors import CompileError
from nequip_core.fields import (
    CELL_KEY,
    FORCE_KEY,
    PER_ATOM_ENERGY_KEY,
    POSITIONS_KEY,
    STRESS_KEY,
    TOTAL_ENERGY_KEY,
    VIRIAL_KEY,
)
from nequip_core.frames import Frame
from nequip_core.neighbors import compute_neighborlist_
from nequip_core.tolerances import model_tolerance

__all__ = [
    "LARGEST_ALLOWED",
    "STATEMENTS",
    "Physics",
    "PhysicsCheck",
    "check_physics",
    "require_physics",
]

Model = Callable[[Frame], Frame]

LARGEST_ALLOWED = 2e-3
"""Largest deviation that ever passes, relative to the largest value: a fifth of one percent."""

STATEMENTS = {
    "forces": "forces = -dE/dx",
    "virial": "virial = -dE/dstrain",
    "stress": "stress * volume = dE/dstrain",
    "force_jacobian": "dF_i/dx_j = dF_j/dx_i",
    "net_force": "sum of the forces = 0",
}
"""What each check says, by its name."""

# Steps in units of the cutoff radius, by dtype of the model. Rounding of the energies falls as 1 /
# step, the error of the differences grows as its fourth power; measured, see decision 32.
_STEPS = {"float64": 5e-4, "float32": 2.5e-3}
# Times the step where rounding is larger than it usually is.
_WIDER = 2.0
# Times the measured error of the differences. It is the largest of dozens, each of them above the
# error of the better estimate; three leaves room for luck.
_SAFETY = 3.0
# Forces are not taken to be smaller: a model without interaction has nothing to check.
_SMALLEST_SCALE = 1e-4


@dataclass(frozen=True)
class PhysicsCheck:
    """How far a statement on the outputs of a model is from true, in its worst frame."""

    name: str
    """Key of `STATEMENTS`."""
    max_error: float
    """Largest deviation, in the unit of the values."""
    allowed: float
    """Largest deviation that passes."""
    scale: float
    """Largest magnitude of the values."""
    uncertainty: float
    """Measured error of the finite differences; zero where none are taken."""
    worst: str
    """Frame and component of the largest deviation."""

    @property
    def passed(self) -> bool:
        """Whether the deviation is allowed; NaN never is."""
        return self.max_error <= self.allowed


@dataclass(frozen=True)
class Physics:
    """The checks of one model, and what could not be checked."""

    checks: list[PhysicsCheck]
    """Each statement in its worst frame."""
    not_checked: dict[str, str] = field(default_factory=dict)
    """Reason by name of the check."""
    frames: dict[str, int] = field(default_factory=dict)
    """Atoms of each frame, by description."""
    evaluations: int = 0
    """How many frames were evaluated."""


def check_physics(
    model: Model,
    target: CompileTarget,
    structures: Mapping[str, Frame],
    r_max: float,
    model_dtype: str,
    device: str | torch.device = "cpu",
) -> Physics:
    """Return how far forces, virial and stress are from the derivatives of the energy.

    Args:
        model: takes and returns the fields of `target`, on `device`.
        target: the fields; each check needs some of its outputs.
        structures: small frames on the CPU, by description. Of the first of each kind (with and
            without a cell) every coordinate of every atom is moved; of further ones every atom
            along one direction.
        r_max: cutoff radius; the neighbor list is made anew at each step.
        model_dtype: of the model, ``"float32"`` or ``"float64"``.
        device: where the model runs.

    Raises:
        CompileError: the model does not give the outputs of `target`.
    """
    run = _Run(model, target, r_max, model_dtype, torch.device(device))
    for title, frame in structures.items():
        run.check(title, frame)
    return Physics(
        checks=[_worst(name, run.found[name]) for name in STATEMENTS if name in run.found],
        not_checked=_not_checked(target, run.found),
        frames=run.frames,
        evaluations=run.evaluations,
    )


def require_physics(physics: Physics, hint: str = "") -> None:
    """Check that every statement holds.

    Args:
        physics: the checks.
        hint: a further sentence of the message.

    Raises:
        CompileError: one does not.
    """
    failed = [one for one in physics.checks if not one.passed]
    if failed:
        details = "; ".join(
            f"'{STATEMENTS[one.name]}' is off by {one.max_error:.1e} (allowed {one.allowed:.1e}, "
            f"error of the differences {one.uncertainty:.1e}) in {one.worst}"
            for one in failed
        )
        raise CompileError(f"the compiled model contradicts itself: {details}{hint}")


class _Run:
    """The checks of one model, frame by frame."""

    def __init__(
        self,
        model: Model,
        target: CompileTarget,
        r_max: float,
        model_dtype: str,
        device: torch.device,
    ) -> None:
        self._model, self._target, self._device = model, target, device
        self._r_max, self._step = r_max, _STEPS[model_dtype]
        self._tolerance = min(model_tolerance(model_dtype), LARGEST_ALLOWED)
        self._seen: set[bool] = set()
        self.found: dict[str, list[PhysicsCheck]] = {}
        self.frames: dict[str, int] = {}
        self.evaluations = 0

    def check(self, title: str, frame: Frame) -> None:
        """Add the checks of one frame, where the target takes such frames."""
        periodic = bool(frame[CELL_KEY].any())
        if periodic and CELL_KEY not in self._target.inputs:
            # Images are atoms of their own there, and forces on them are not forces on an atom.
            return
        here = self._evaluated([frame])
        if here is None:
            return
        self.frames[title] = frame[POSITIONS_KEY].shape[0]
        everything = periodic not in self._seen
        self._seen.add(periodic)
        strained = everything and (periodic or CELL_KEY not in self._target.inputs)
        found: dict[str, PhysicsCheck] = {}
        for step in (self._step, _WIDER * self._step):
            checks = self._force_checks(title, frame, here, step, everything)
            checks += self._strain_checks(title, frame, here, step) if strained else []
            for one in checks:
                known = found.setdefault(one.name, one)
                if one.uncertainty < known.uncertainty:
                    found[one.name] = one
            if all(_SAFETY * one.uncertainty <= LARGEST_ALLOWED * one.scale for one in checks):
                break
        for name, one in found.items():
            self.found.setdefault(name, []).append(one)

    def _evaluated(self, frames: Sequence[Frame]) -> Outputs | None:
        self.evaluations += len(frames)
        return evaluated(self._model, self._target, frames, self._device)

    def _along(self, frames: Iterable[Frame]) -> Outputs:
        """Return what the model gives for moved frames, with fresh neighbor lists."""
        found = self._evaluated([compute_neighborlist_(one, self._r_max) for one in frames])
        if found is None:
            raise CompileError("a frame lost an input field when its atoms were moved")
        return found

    def _force_checks(
        self, title: str, frame: Frame, here: Outputs, relative_step: float, everything: bool
    ) -> list[PhysicsCheck]:
        """Return the checks that move atoms."""
        if here.forces is None:
            return []
        forces, positions = here.forces[0], frame[POSITIONS_KEY]
        directions = directions_of(positions.shape[0], everything)
        labels = labels_of(directions.shape[0], everything)
        step = relative_step * self._r_max
        moved = self._along(
            {**frame, POSITIONS_KEY: positions + point * step * direction}
            for direction in directions
            for point in POINTS
        )
        checks = []
        if moved.energy is not None:
            along = (directions * forces).sum((1, 2))
            slope, error = derivative(moved.energy, step)
            checks.append(self._compared("forces", title, along, -slope, error, labels))
        if moved.forces is None:
            raise CompileError("the model returned no forces for moved atoms")
        slopes, errors = derivative(moved.forces, step)
        jacobian = torch.einsum("lnc,knc->kl", slopes, directions)
        # Both sides of the equation have the error.
        error = 2.0 * torch.einsum("lnc,knc->kl", errors, directions.abs())
        pairs = [f"{one} and {other}" for one in labels for other in labels]
        checks.append(self._compared("force_jacobian", title, jacobian, jacobian.T, error, pairs))
        total, none = forces.sum(0), torch.zeros(3, dtype=forces.dtype)
        size = float(forces.abs().sum())
        checks.append(self._compared("net_force", title, total, none, none, list("xyz"), size))
        return checks

    def _strain_checks(
        self, title: str, frame: Frame, here: Outputs, step: float
    ) -> list[PhysicsCheck]:
        """Return the checks that strain the frame."""
        if here.energy is None or (here.virial is None and here.stress is None):
            return []
        corners = [(i, j) for i in range(3) for j in range(i, 3)]
        energies = self._along(
            strained(frame, i, j, point * step) for i, j in corners for point in POINTS
        ).energy
        if energies is None:
            raise CompileError("the model returned no energy for strained frames")
        slopes, errors = derivative(energies, step)
        slope, error = torch.zeros(3, 3).double(), torch.zeros(3, 3).double()
        for (i, j), value, uncertain in zip(corners, slopes, errors, strict=True):
            slope[i, j] = slope[j, i] = value
            error[i, j] = error[j, i] = uncertain
        labels = [a + b for a in "xyz" for b in "xyz"]
        checks = []
        if here.virial is not None:
            found = here.virial[0]
            checks.append(self._compared("virial", title, found, -slope, error, labels))
        first, second, third = frame[CELL_KEY].reshape(3, 3)
        volume = float(torch.dot(first, torch.linalg.cross(second, third)).abs())
        if here.stress is not None and volume > 0.0:
            # Times the volume, so that the scale does not depend on it.
            found = here.stress[0] * volume
            checks.append(self._compared("stress", title, found, slope, error, labels))
        return checks

    def _compared(
        self,
        name: str,
        title: str,
        found: torch.Tensor,
        wanted: torch.Tensor,
        error: torch.Tensor,
        labels: Sequence[str],
        scale: float | None = None,
    ) -> PhysicsCheck:
        """Return the check that `found` is `wanted`."""
        if scale is None:
            scale = max(float(found.abs().max()), float(wanted.abs().max()))
        # NaN is below nothing, so it stays and no comparison with it passes.
        scale = _SMALLEST_SCALE if scale < _SMALLEST_SCALE else scale
        uncertainty = float(error.max())
        differences = (found - wanted).abs().reshape(-1).nan_to_num(nan=math.inf)
        return PhysicsCheck(
            name=name,
            max_error=float(differences.max()),
            allowed=min(LARGEST_ALLOWED * scale, self._tolerance * scale + _SAFETY * uncertainty),
            scale=scale,
            uncertainty=uncertainty,
            worst=f"'{title}', {labels[int(differences.argmax())]}",
        )


def _worst(name: str, checks: Sequence[PhysicsCheck]) -> PhysicsCheck:
    return max(
        checks,
        key=lambda one: math.inf if math.isnan(one.allowed) else one.max_error / one.allowed,
    )


def _not_checked(target: CompileTarget, found: Mapping[str, object]) -> dict[str, str]:
    """Return what was not checked, with the reason."""
    given = set(target.outputs)
    energy = bool(given & {TOTAL_ENERGY_KEY, PER_ATOM_ENERGY_KEY})
    reasons = {}
    for name in STATEMENTS:
        if name in found:
            continue
        if name in (VIRIAL_KEY, STRESS_KEY) and name not in given:
            continue
        if name not in (VIRIAL_KEY, STRESS_KEY) and FORCE_KEY not in given:
            reasons[name] = "the target gives no forces"
        elif name in ("forces", VIRIAL_KEY, STRESS_KEY) and not energy:
            reasons[name] = "the target gives no energy"
        else:
            reasons[name] = f"the input fields {list(target.inputs)} are not made from a structure"
    return reasons
