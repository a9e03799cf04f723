"""Energy shifts of a trained model for data of another reference energy, before training goes on.

A shift is what an atom of a type adds to the energy whatever surrounds it. Data of another method,
or of other pseudopotentials, differ from those that a model was trained on by such numbers above
all; fitting them first leaves to the training what is chemistry.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from nequip_core.errors import ConfigError, DataError, closest
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    BATCH_KEY,
    EDGE_INDEX_KEY,
    POSITIONS_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_core.frames import Frame, num_frames
from nequip_core.saved_model import SOLE_MODEL

__all__ = [
    "METHODS",
    "RefitShifts",
    "Shift",
    "checked_options",
    "log_shifts",
    "refit_energy_shifts",
]

_LOG = logging.getLogger(__name__)

METHODS = ("keep", "isolated_atoms", "least_squares")

_MODIFIER = "modify_PerTypeScaleShift"


@dataclass(frozen=True)
class Shift:
    """The shift of one type, energy.

    Attributes:
        type_name: the type.
        before: of the model that the training starts from.
        after: what the training starts with.
        atoms: number of atoms of the type in the training data that were looked at.
        source: ``given``, ``isolated atom``, ``least squares`` or ``kept``.
    """

    type_name: str
    before: float
    after: float
    atoms: int
    source: str


@dataclass(frozen=True)
class RefitShifts:
    """What a re-fit found.

    Attributes:
        model: config of the model with the new shifts.
        shifts: one a type, in order.
        rmse: root mean square error of the energy per atom, before and after; None where the
            frames were not looked at.
        warnings: what the data leave open.
    """

    model: dict[str, Any]
    shifts: list[Shift]
    rmse: tuple[float, float] | None
    warnings: list[str]

    def as_plain(self) -> list[dict[str, Any]]:
        """Return the shifts as plain containers, for a checkpoint."""
        return [asdict(shift) for shift in self.shifts]


def checked_options(
    options: str | Mapping[str, Any] | None, type_names: Sequence[str]
) -> dict[str, Any] | None:
    """Return the options as a mapping with ``method`` and ``energies``.

    Args:
        options: a method; or a mapping with ``method`` and, for ``isolated_atoms``, ``energies``:
            the energy of an isolated atom by type name.
        type_names: the model's types.

    Raises:
        ConfigError: there is no such method, type or option, or an energy is not a finite number.
    """
    if options is None:
        return None
    given: dict[str, Any] = {"method": options} if isinstance(options, str) else dict(options)
    unknown = [key for key in given if key not in ("method", "energies")]
    if unknown:
        raise ConfigError(
            f"energy_shifts.{unknown[0]}: there are 'method' and 'energies' only"
            f"{closest(str(unknown[0]), ['method', 'energies'])}"
        )
    method = given.get("method")
    if method not in METHODS:
        raise ConfigError(
            f"energy_shifts.method: must be one of {', '.join(METHODS)}, got {method!r}"
            f"{closest(str(method), METHODS)}"
        )
    energies: dict[str, Any] = dict(given.get("energies") or {})
    if energies and method != "isolated_atoms":
        raise ConfigError(f"energy_shifts.energies: mean nothing for the method {method}")
    for name, value in energies.items():
        if name not in type_names:
            raise ConfigError(
                f"energy_shifts.energies: '{name}' is not one of the model's types "
                f"{list(type_names)}{closest(str(name), list(type_names))}"
            )
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise ConfigError(f"energy_shifts.energies.{name}: must be a number, got {value!r}")
    return {"method": method, "energies": {name: float(e) for name, e in energies.items()}}


@dataclass
class _Data:
    """What the training data say: F frames with an energy, T types.

    Attributes:
        counts: (F, T) number of atoms of each type.
        missing: (F,) energy that the model lacks, label minus prediction.
    """

    counts: torch.Tensor
    missing: torch.Tensor


def refit_energy_shifts(
    module: Any, options: Mapping[str, Any], batches: Iterable[Frame]
) -> RefitShifts:
    """Return the config of a training module's model with new shifts.

    Args:
        module: a training module with one model, which is not changed.
        options: of `checked_options`.
        batches: of all training frames, with energies.

    Raises:
        ConfigError: the model has no shifts that could be changed.
        DataError: frames have no energies, or nothing says an energy that is asked for.
    """
    if list(module.model) != [SOLE_MODEL]:
        raise ConfigError(
            f"energy_shifts: there are several models, {', '.join(module.model)}; change their "
            "shifts with nequip.model.modify"
        )
    model, names = module.model[SOLE_MODEL], list(module.type_names)
    holder = _shift_module(model)
    before = _by_type(holder.shifts, len(names))
    method, energies = options["method"], options.get("energies") or {}
    warnings: list[str] = []
    change = torch.zeros(len(names), dtype=torch.float64)
    sources = ["kept"] * len(names)
    atoms, rmse = [0] * len(names), None
    if method != "keep":
        was_training = model.training
        model.eval()
        try:
            only_single = method == "isolated_atoms"
            data = _missing_energies(model, batches, len(names), only_single)
            if only_single:
                _isolated(model, names, energies, data, change, sources)
            else:
                _least_squares(names, data, change, sources, warnings)
        finally:
            model.train(was_training)
        atoms = [int(number) for number in data.counts.sum(dim=0).tolist()]
        rmse = None if only_single else (_rmse(data, torch.zeros_like(change)), _rmse(data, change))
    shifts = [
        Shift(name, old, old + delta, number, source)
        for name, old, delta, number, source in zip(
            names, before, change.tolist(), atoms, sources, strict=True
        )
    ]
    return RefitShifts(_modified(module.model_config, holder, shifts), shifts, rmse, warnings)


def log_shifts(found: RefitShifts, unit: str | None) -> None:
    """Log what a re-fit found, a line a type.

    Args:
        found: of `refit_energy_shifts`.
        unit: of energies, None where the data do not say it.
    """
    suffix = f" {unit}" if unit else ""
    for shift in found.shifts:
        _LOG.info(
            "energy shift of %s: %.8g -> %.8g (%+.3g)%s, %s, %d atoms",
            shift.type_name,
            shift.before,
            shift.after,
            shift.after - shift.before,
            suffix,
            shift.source,
            shift.atoms,
        )
    if found.rmse is not None:
        _LOG.info(
            "error of the energy per atom before and after: %.4g, %.4g%s", *found.rmse, suffix
        )
    for warning in found.warnings:
        _LOG.warning("energy_shifts: %s", warning)


def _shift_module(model: torch.nn.Module) -> Any:
    # By its modifier instead of its class: that of a packaged model is not the installed one.
    found = [part for part in model.modules() if hasattr(type(part), _MODIFIER)]
    if len(found) != 1:
        raise ConfigError(
            f"energy_shifts: the model has {len(found)} parts that the modifier {_MODIFIER} could "
            "change, needed is one"
        )
    return found[0]


def _by_type(table: torch.Tensor | None, count: int) -> list[float]:
    """Return the shifts by type of a table with none, one or T rows."""
    values = [] if table is None else table.detach().flatten().to(torch.float64).tolist()
    return values * count if len(values) == 1 else values or [0.0] * count


def _missing_energies(
    model: torch.nn.Module, batches: Iterable[Frame], count: int, only_single: bool
) -> _Data:
    counts, missing = [], []
    for batch in batches:
        if TOTAL_ENERGY_KEY not in batch:
            raise DataError(
                f"energy_shifts: the training data have no '{TOTAL_ENERGY_KEY}' to fit shifts to"
            )
        types = batch[ATOM_TYPE_KEY].flatten()
        frames = batch.get(BATCH_KEY, torch.zeros_like(types))
        table = torch.zeros(num_frames(batch), count, dtype=torch.float64)
        ones = torch.ones(len(types), dtype=torch.float64)
        table.index_put_((frames.cpu(), types.cpu()), ones, accumulate=True)
        wanted = batch[TOTAL_ENERGY_KEY].flatten().to(torch.float64).cpu()
        rows = torch.isfinite(wanted)
        if only_single:
            rows &= table.sum(dim=1) == 1
        if not rows.any():
            continue
        found = model(dict(batch))[TOTAL_ENERGY_KEY].detach().flatten().cpu()
        counts.append(table[rows])
        missing.append((wanted - found)[rows])
    if not counts:
        return _Data(
            torch.zeros(0, count, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
        )
    return _Data(torch.cat(counts), torch.cat(missing))


def _isolated(
    model: torch.nn.Module,
    names: Sequence[str],
    energies: Mapping[str, float],
    data: _Data,
    change: torch.Tensor,
    sources: list[str],
) -> None:
    for index, name in enumerate(names):
        rows = data.counts[:, index] > 0
        if name in energies:
            change[index] = energies[name] - _isolated_energy(model, index)
            sources[index] = "given"
        elif rows.any():
            change[index] = data.missing[rows].mean()
            sources[index] = "isolated atom"
    if set(sources) == {"kept"}:
        raise DataError(
            "energy_shifts: no energy of an isolated atom is known: give 'energies' by type, or "
            "frames of one atom in the training data"
        )


def _isolated_energy(model: torch.nn.Module, type_index: int) -> float:
    frame = {
        POSITIONS_KEY: torch.zeros(1, 3, dtype=torch.float64),
        ATOM_TYPE_KEY: torch.tensor([type_index]),
        EDGE_INDEX_KEY: torch.zeros(2, 0, dtype=torch.int64),
    }
    return float(model(frame)[TOTAL_ENERGY_KEY].detach())


def _least_squares(
    names: Sequence[str],
    data: _Data,
    change: torch.Tensor,
    sources: list[str],
    warnings: list[str],
) -> None:
    """Fit the energies per atom; of equal fits the one that changes least."""
    if not len(data.missing):
        raise DataError("energy_shifts: no training frame has an energy to fit shifts to")
    there = data.counts.sum(dim=0) > 0
    size = data.counts.sum(dim=1, keepdim=True)
    fractions = (data.counts / size)[:, there]
    solution = torch.linalg.lstsq(
        fractions, data.missing.unsqueeze(1) / size, driver="gelsd"
    ).solution.flatten()
    change[there] = solution
    for index in torch.nonzero(there).flatten().tolist():
        sources[index] = "least squares"
    rank = int(torch.linalg.matrix_rank(fractions))
    if rank < int(there.sum()):
        warnings.append(
            f"the compositions of the training frames tell only {rank} of {int(there.sum())} "
            "energy shifts apart; of all that fit equally, those that change least were taken"
        )


def _rmse(data: _Data, change: torch.Tensor) -> float:
    errors = (data.missing - data.counts @ change) / data.counts.sum(dim=1)
    return float(errors.square().mean().sqrt())


def _modified(config: Mapping[str, Any], holder: Any, shifts: Sequence[Shift]) -> dict[str, Any]:
    changed = {shift.type_name: shift.after for shift in shifts if shift.source != "kept"}
    if not changed:
        return dict(config)
    modifier: dict[str, Any] = {"modifier": _MODIFIER, "shifts": changed}
    for name in ("scales", "shifts"):
        modifier[f"{name}_trainable"] = isinstance(getattr(holder, name), torch.nn.Parameter)
    return {"_target_": "nequip.model.modify", "modifiers": [modifier], "model": dict(config)}
