"""The usual losses and reports as `MetricsManager` objects, by short configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torchmetrics

from nequip_core.errors import ConfigError, closest
from nequip_core.fields import FORCE_KEY, STRESS_KEY, TOTAL_ENERGY_KEY
from nequip_train.data.modifiers import PerAtomModifier
from nequip_train.metrics import (
    MaximumAbsoluteError,
    MeanAbsoluteError,
    MeanSquaredError,
    RootMeanSquaredError,
)
from nequip_train.metrics_manager import MetricsManager

__all__ = [
    "EnergyForceLoss",
    "EnergyForceMetrics",
    "EnergyForceStressLoss",
    "EnergyForceStressMetrics",
    "EnergyOnlyLoss",
    "EnergyOnlyMetrics",
]

Coeffs = Mapping[str, float | None]
Entries = Sequence[Mapping[str, Any]] | None

_KINDS: dict[str, Callable[[], torchmetrics.Metric]] = {
    "rmse": RootMeanSquaredError,
    "mae": MeanAbsoluteError,
    "maxabserr": MaximumAbsoluteError,
}
_PER_ATOM_ENERGY = "per_atom_energy"


def _quantity(name: str) -> Any:
    return PerAtomModifier(TOTAL_ENERGY_KEY) if name == _PER_ATOM_ENERGY else name


def _loss(
    fields: Sequence[str],
    coeffs: Coeffs,
    per_atom_energy: bool,
    per_type_forces_coeffs: Mapping[str, float] | None,
    type_names: Sequence[str] | None,
    ignore_nan: Mapping[str, bool] | None,
    extra_metrics: Entries,
) -> MetricsManager:
    for key in coeffs:
        if key not in fields:
            near = closest(str(key), list(fields))
            raise ConfigError(f"coeffs has no key '{key}', only {', '.join(fields)}{near}")
    missing = [field for field in fields if field not in coeffs]
    if missing:
        raise ConfigError(f"coeffs lacks '{missing[0]}'; it needs {', '.join(fields)}")
    _check_fields(ignore_nan, fields)
    entries = []
    for field in fields:
        label = _PER_ATOM_ENERGY if field == TOTAL_ENERGY_KEY and per_atom_energy else field
        entry = {
            "name": f"{label}_mse",
            "field": _quantity(label),
            "metric": MeanSquaredError(),
            "coeff": coeffs[field],
            "ignore_nan": bool((ignore_nan or {}).get(field, False)),
        }
        if field == FORCE_KEY and per_type_forces_coeffs is not None:
            entry |= {"per_type": True, "per_type_coeffs": per_type_forces_coeffs}
        entries.append(entry)
    return MetricsManager([*entries, *(extra_metrics or ())], type_names)


def _check_fields(ignore_nan: Mapping[str, bool] | None, fields: Sequence[str]) -> None:
    for key in ignore_nan or ():
        if key not in fields:
            near = closest(key, list(fields))
            raise ConfigError(f"ignore_nan has no key '{key}', only {', '.join(fields)}{near}")


def _report(
    fields: Sequence[str],
    coeffs: Coeffs | None,
    type_names: Sequence[str] | None,
    ignore_nan: Mapping[str, bool] | None,
    extra_metrics: Entries,
) -> MetricsManager:
    quantities = [TOTAL_ENERGY_KEY, _PER_ATOM_ENERGY, *fields[1:]]
    names = [f"{quantity}_{kind}" for quantity in quantities for kind in _KINDS]
    if coeffs is None:
        coeffs = {f"{field}_rmse": 1.0 for field in fields}
    for key in coeffs:
        if key not in names:
            raise ConfigError(
                f"coeffs has no key '{key}'{closest(str(key), names)}; there are {', '.join(names)}"
            )
    _check_fields(ignore_nan, fields)
    entries = []
    for quantity in quantities:
        field = TOTAL_ENERGY_KEY if quantity == _PER_ATOM_ENERGY else quantity
        for kind, metric in _KINDS.items():
            entries.append(
                {
                    "name": f"{quantity}_{kind}",
                    "field": _quantity(quantity),
                    "metric": metric(),
                    "coeff": coeffs.get(f"{quantity}_{kind}"),
                    "ignore_nan": bool((ignore_nan or {}).get(field, False)),
                }
            )
    return MetricsManager([*entries, *(extra_metrics or ())], type_names)


def EnergyForceLoss(  # noqa: N802 - documented name, used as a _target_
    coeffs: Coeffs | None = None,
    per_atom_energy: bool = True,
    per_type_forces_coeffs: Mapping[str, float] | None = None,
    type_names: Sequence[str] | None = None,
    extra_metrics: Entries = None,
) -> MetricsManager:
    """Return the loss ``per_atom_energy_mse`` (or ``total_energy_mse``) and ``forces_mse``.

    Args:
        coeffs: coefficients of ``total_energy`` and ``forces``; default 1 and 1.
        per_atom_energy: take the energy by atom.
        per_type_forces_coeffs: weight by type name; the force term is then a mean over types.
        type_names: the model's type names in order.
        extra_metrics: further entries of the `MetricsManager`.
    """
    fields = (TOTAL_ENERGY_KEY, FORCE_KEY)
    coeffs = dict.fromkeys(fields, 1.0) if coeffs is None else coeffs
    return _loss(
        fields, coeffs, per_atom_energy, per_type_forces_coeffs, type_names, None, extra_metrics
    )


def EnergyForceStressLoss(  # noqa: N802
    coeffs: Coeffs | None = None,
    per_atom_energy: bool = True,
    per_type_forces_coeffs: Mapping[str, float] | None = None,
    type_names: Sequence[str] | None = None,
    ignore_nan: Mapping[str, bool] | None = None,
    extra_metrics: Entries = None,
) -> MetricsManager:
    """Return the loss of `EnergyForceLoss` with ``stress_mse`` in addition.

    Args:
        coeffs: coefficients of ``total_energy``, ``forces`` and ``stress``; default 1 each.
        per_atom_energy: take the energy by atom.
        per_type_forces_coeffs: weight by type name; the force term is then a mean over types.
        type_names: the model's type names in order.
        ignore_nan: whether NaN means "no label", by field name.
        extra_metrics: further entries of the `MetricsManager`.
    """
    fields = (TOTAL_ENERGY_KEY, FORCE_KEY, STRESS_KEY)
    coeffs = dict.fromkeys(fields, 1.0) if coeffs is None else coeffs
    return _loss(
        fields,
        coeffs,
        per_atom_energy,
        per_type_forces_coeffs,
        type_names,
        ignore_nan,
        extra_metrics,
    )


def EnergyOnlyLoss(  # noqa: N802
    per_atom_energy: bool = True,
    type_names: Sequence[str] | None = None,
    extra_metrics: Entries = None,
) -> MetricsManager:
    """Return the loss ``per_atom_energy_mse`` or ``total_energy_mse``.

    Args:
        per_atom_energy: take the energy by atom.
        type_names: the model's type names in order.
        extra_metrics: further entries of the `MetricsManager`.
    """
    fields = (TOTAL_ENERGY_KEY,)
    return _loss(
        fields, {TOTAL_ENERGY_KEY: 1.0}, per_atom_energy, None, type_names, None, extra_metrics
    )


def EnergyForceMetrics(  # noqa: N802
    coeffs: Coeffs | None = None,
    type_names: Sequence[str] | None = None,
    extra_metrics: Entries = None,
) -> MetricsManager:
    """Return ``{total_energy,per_atom_energy,forces}_{rmse,mae,maxabserr}``.

    Args:
        coeffs: coefficient by metric name; default 1 for ``total_energy_rmse`` and ``forces_rmse``.
        type_names: the model's type names in order.
        extra_metrics: further entries of the `MetricsManager`.
    """
    return _report((TOTAL_ENERGY_KEY, FORCE_KEY), coeffs, type_names, None, extra_metrics)


def EnergyForceStressMetrics(  # noqa: N802
    coeffs: Coeffs | None = None,
    type_names: Sequence[str] | None = None,
    ignore_nan: Mapping[str, bool] | None = None,
    extra_metrics: Entries = None,
) -> MetricsManager:
    """Return the metrics of `EnergyForceMetrics` with ``stress_{rmse,mae,maxabserr}`` in addition.

    Args:
        coeffs: coefficient by metric name; default 1 for those ending in ``_rmse``, but not
            ``per_atom_energy_rmse``.
        type_names: the model's type names in order.
        ignore_nan: whether NaN means "no label", by field name.
        extra_metrics: further entries of the `MetricsManager`.
    """
    fields = (TOTAL_ENERGY_KEY, FORCE_KEY, STRESS_KEY)
    return _report(fields, coeffs, type_names, ignore_nan, extra_metrics)


def EnergyOnlyMetrics(  # noqa: N802
    coeffs: Coeffs | None = None,
    type_names: Sequence[str] | None = None,
    extra_metrics: Entries = None,
) -> MetricsManager:
    """Return ``{total_energy,per_atom_energy}_{rmse,mae,maxabserr}``.

    Args:
        coeffs: coefficient by metric name; default 1 for ``total_energy_rmse``.
        type_names: the model's type names in order.
        extra_metrics: further entries of the `MetricsManager`.
    """
    return _report((TOTAL_ENERGY_KEY,), coeffs, type_names, None, extra_metrics)
