"""Several error metrics with names, coefficients and a weighted sum: losses and reports."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torchmetrics

from nequip_core.errors import ConfigError, DataError, closest
from nequip_core.fields import ATOM_TYPE_KEY, CELL_KEY, STRESS_KEY
from nequip_core.frames import Frame
from nequip_train.data.modifiers import BaseModifier, field_of

__all__ = ["MetricEntry", "MetricsManager"]

WEIGHTED_SUM = "weighted_sum"
_ENTRY_KEYS = ("metric", "field", "coeff", "name", "per_type", "per_type_coeffs", "ignore_nan")


@dataclass
class MetricEntry:
    """What one metric of a manager is applied to, and how much it counts.

    Attributes:
        field: the quantity; None for a metric that gets the two whole dictionaries.
        coeff: its share of the weighted sum, all shares having the sum 1; None for no part in it.
        ignore_nan: whether NaN in the target stands for "no label".
        per_type: whether there is one value a type.
        per_type_coeffs: weights of the types in their mean, by name.
    """

    field: BaseModifier | None
    coeff: float | None
    ignore_nan: bool
    per_type: bool
    per_type_coeffs: dict[str, float] | None


@dataclass
class _Result:
    """A metric's value, and whether it is NaN because there was not a single label."""

    value: torch.Tensor
    is_missing: bool


class MetricsManager(torch.nn.ModuleDict):
    """Metrics by name, and their weighted sum.

    A call takes a batch in and returns its values, which can be differentiated; `compute` returns
    the values since the last `reset`. A term without a single label has the value NaN and
    adds nothing to the weighted sum.

    Args:
        metrics: one mapping a metric, with the keys ``metric`` (required), ``field`` (a name, a
            modifier, or None for a metric of the whole dictionaries), ``coeff``, ``name`` (default:
            field and metric), ``per_type`` (one value a type, and their mean), ``per_type_coeffs``
            (weights of the types in that mean), ``ignore_nan``.
        type_names: the model's type names in order.

    Attributes:
        entries: `MetricEntry` by name.
        do_weighted_sum: whether any metric has a coefficient.
        unlabelled: metrics that met no label in the latest call.
        metrics_values_step: latest values of a call by name, None before.
        metrics_values_epoch: latest values of `compute` by name, None before.

    Raises:
        ConfigError: an entry is wrong, or two have the same name.
    """

    def __init__(
        self, metrics: Sequence[Mapping[str, Any]], type_names: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.type_names = list(type_names) if type_names is not None else None
        self.entries: dict[str, MetricEntry] = {}
        for config in metrics:
            self._add(dict(config))
        self.do_weighted_sum = False
        self._labelled: set[tuple[str, int]] = set()
        self.unlabelled: set[str] = set()
        self.set_coeffs({name: entry.coeff for name, entry in self.entries.items()})
        self.metrics_values_step: dict[str, float | None] = dict.fromkeys(self.entries)
        self.metrics_values_epoch: dict[str, float | None] = dict.fromkeys(self.entries)

    def _add(self, config: dict[str, Any]) -> None:
        unknown = [key for key in config if key not in _ENTRY_KEYS]
        if unknown:
            raise ConfigError(
                f"a metric has no key '{unknown[0]}'{closest(str(unknown[0]), _ENTRY_KEYS)}"
            )
        metric = config.get("metric")
        if not isinstance(metric, torch.nn.Module):
            raise ConfigError(f"a metric needs the key 'metric' with a metric, got {config}")
        field = config.get("field")
        modifier = BaseModifier(field) if isinstance(field, str) else field
        default = f"{modifier}_{metric}" if modifier is not None else str(metric)
        name = config.get("name") or default
        if name in self.entries or name == WEIGHTED_SUM or hasattr(torch.nn.ModuleDict, name):
            raise ConfigError(f"the metric name '{name}' is taken; set another 'name'")
        per_type = bool(config.get("per_type", False))
        per_type_coeffs = config.get("per_type_coeffs")
        if modifier is None and (per_type or config.get("ignore_nan")):
            raise ConfigError(f"'{name}' has no field, so per_type and ignore_nan mean nothing")
        if per_type:
            self._check_per_type(name, modifier)
        self.entries[name] = MetricEntry(
            field=modifier,
            coeff=config.get("coeff"),
            ignore_nan=bool(config.get("ignore_nan", False)),
            per_type=per_type,
            per_type_coeffs=self._checked_weights(name, per_type, per_type_coeffs),
        )
        if per_type:
            copies = [deepcopy(metric) for _ in self.type_names or ()]
            self[name] = torch.nn.ModuleList(copies)
        else:
            self[name] = metric

    def _check_per_type(self, name: str, modifier: BaseModifier | None) -> None:
        if modifier is not None and modifier.type != "node":
            raise ConfigError(
                f"the metric '{name}' is of a {modifier.type} field; only those of node fields can "
                "be per type"
            )
        if not self.type_names:
            raise ConfigError(f"the per-type metric '{name}' needs 'type_names'")

    def _checked_weights(
        self, name: str, per_type: bool, weights: Mapping[str, float] | None
    ) -> dict[str, float] | None:
        if weights is None:
            return None
        if not per_type:
            raise ConfigError(f"per_type_coeffs of '{name}' needs 'per_type: true'")
        names = self.type_names or []
        if not isinstance(weights, Mapping) or set(weights) != set(names):
            raise ConfigError(f"per_type_coeffs of '{name}' must have the keys {names}: {weights}")
        if any(not weight > 0 for weight in weights.values()):
            raise ConfigError(f"per_type_coeffs of '{name}' must be positive: {dict(weights)}")
        return {key: float(weights[key]) for key in names}

    def set_coeffs(self, coeffs: Mapping[str, float | None]) -> None:
        """Set the coefficients; they are divided by their sum.

        Args:
            coeffs: coefficient by metric name; metrics that are not named get none.

        Raises:
            ConfigError: a name is unknown, or the coefficients do not have a positive sum.
        """
        self.check_coeffs(coeffs)
        given = [float(value) for value in coeffs.values() if value is not None]
        for name, entry in self.entries.items():
            value = coeffs.get(name)
            entry.coeff = None if value is None else float(value) / sum(given)
        self.do_weighted_sum = bool(given)

    def check_coeffs(self, coeffs: Mapping[str, float | None]) -> None:
        """Raise the error that `set_coeffs` would raise."""
        for name, value in coeffs.items():
            if name not in self.entries:
                raise ConfigError(
                    f"no metric is called '{name}' (there are {', '.join(self.entries)})"
                    f"{closest(str(name), list(self.entries))}"
                )
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and (not is_number or not value >= 0):
                raise ConfigError(f"the coefficient of '{name}' must be >= 0 or null, got {value}")
        given = [float(value) for value in coeffs.values() if value is not None]
        if given and not sum(given) > 0:
            raise ConfigError(f"the coefficients {dict(coeffs)} have the sum zero")

    def required_fields(self) -> dict[str, str]:
        """Return the name of the first metric that needs it by field name."""
        fields: dict[str, str] = {}
        for name, entry in self.entries.items():
            if entry.field is not None and entry.field.label_field is not None:
                fields.setdefault(entry.field.label_field, name)
        return fields

    def value_names(self) -> list[str]:
        """Return the names of all values that a call returns."""
        names = [WEIGHTED_SUM] if self.do_weighted_sum else []
        for name, entry in self.entries.items():
            names.append(name)
            if entry.per_type:
                names += [f"{name}_{type_name}" for type_name in self.type_names or ()]
        return names

    def all_metrics(self) -> list[torchmetrics.Metric]:
        """Return every single metric, those of each type included."""
        return [m for m in self.modules() if isinstance(m, torchmetrics.Metric)]

    def forward(
        self, preds: Frame, target: Frame, prefix: str = "", suffix: str = ""
    ) -> dict[str, torch.Tensor]:
        """Take in a batch and return its values.

        Args:
            preds: the model's output for the batch.
            target: the labels.
            prefix: goes before every name.
            suffix: goes after every name.

        Returns:
            values of shape (), float64, by name; ``weighted_sum`` is their sum by coefficients.

        Raises:
            DataError: a field is missing, or NaN without ``ignore_nan``.
        """
        results = {
            name: self._of_batch(name, entry, preds, target) for name, entry in self.entries.items()
        }
        if any(metric.dist_sync_on_step for metric in self.all_metrics()):
            _share_what_is_missing(results)
            for result in (result for found in results.values() for result in found):
                if result.is_missing:
                    result.value = torch.full_like(result.value, torch.nan)
        self.unlabelled = {
            name for name, found in results.items() if all(result.is_missing for result in found)
        }
        values = self._reported(results)
        self.metrics_values_step = {name: float(values[name].detach()) for name in self.entries}
        return {f"{prefix}{name}{suffix}": value for name, value in values.items()}

    def compute(self, prefix: str = "", suffix: str = "") -> dict[str, torch.Tensor]:
        """Return the values over everything since the last `reset`, named as by a call."""
        with warnings.catch_warnings():
            # A term without labels was never updated; its NaN says so.
            warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
            results = {
                name: [
                    _Result(metric.compute().detach(), (name, index) not in self._labelled)
                    for index, metric in enumerate(self._of_entry(name))
                ]
                for name in self.entries
            }
        _share_what_is_missing(results)
        values = self._reported(results)
        self.metrics_values_epoch = {name: float(values[name]) for name in self.entries}
        return {f"{prefix}{name}{suffix}": value for name, value in values.items()}

    def reset(self) -> None:
        """Forget everything taken in."""
        self._labelled.clear()
        for metric in self.all_metrics():
            metric.reset()

    def _of_entry(self, name: str) -> list[torchmetrics.Metric]:
        """Return the metrics of an entry: one, or one a type."""
        found: Any = self[name]
        return list(found) if self.entries[name].per_type else [found]

    def _of_batch(
        self, name: str, entry: MetricEntry, preds: Frame, target: Frame
    ) -> list[_Result]:
        metrics = self._of_entry(name)
        if entry.field is None:
            self._labelled.add((name, 0))
            return [_Result(metrics[0](preds, target), False)]
        what = f"the data for '{name}'"
        if entry.field.field is not None:
            field_of(target, str(entry.field.label_field), what)
            field_of(preds, entry.field.field, f"the model's output for '{name}'")
        predicted, wanted = entry.field(preds), entry.field.of_target(target)
        if entry.field.field == STRESS_KEY and CELL_KEY in target and wanted.numel():
            _require_volume(name, target[CELL_KEY], wanted)
        if predicted.shape != wanted.shape:
            raise DataError(
                f"'{name}' compares a prediction of shape {tuple(predicted.shape)} with labels of "
                f"shape {tuple(wanted.shape)}"
            )
        results = []
        types = field_of(target, ATOM_TYPE_KEY, what).view(-1) if entry.per_type else None
        for index, metric in enumerate(metrics):
            rows = slice(None) if types is None else types == index
            result = _masked(metric, name, entry.ignore_nan, predicted[rows], wanted[rows])
            if not result.is_missing:
                self._labelled.add((name, index))
            results.append(result)
        return results

    def _reported(self, results: Mapping[str, list[_Result]]) -> dict[str, torch.Tensor]:
        """Return the values by name, with per-type means and the weighted sum."""
        values: dict[str, torch.Tensor] = {}
        terms: list[torch.Tensor] = []
        for name, entry in self.entries.items():
            found = results[name]
            if not entry.per_type:
                values[name] = found[0].value
            else:
                names = self.type_names or []
                values[name] = _mean_over_types(found, entry.per_type_coeffs, names)
                for type_name, result in zip(names, found, strict=True):
                    values[f"{name}_{type_name}"] = result.value
            if entry.coeff is not None and not all(result.is_missing for result in found):
                terms.append(entry.coeff * values[name])
        if self.do_weighted_sum:
            nothing = torch.zeros_like(next(iter(values.values())))
            values[WEIGHTED_SUM] = torch.stack(terms).sum() if terms else nothing
        return values

    def get_extra_state(self) -> dict[str, Any]:
        """Return coefficients and latest values as plain numbers, for a checkpoint."""
        return {
            "coeff_dict": {name: entry.coeff for name, entry in self.entries.items()},
            "metrics_values_step": dict(self.metrics_values_step),
            "metrics_values_epoch": dict(self.metrics_values_epoch),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from a state of `get_extra_state`."""
        self.set_coeffs(state["coeff_dict"])
        self.metrics_values_step = dict(state["metrics_values_step"])
        self.metrics_values_epoch = dict(state["metrics_values_epoch"])


def _share_what_is_missing(results: Mapping[str, list[_Result]]) -> None:
    """Let a label that any process has be there for all of them."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    everything = [result for found in results.values() for result in found]
    if not distributed or not everything:
        return
    missing = [float(result.is_missing) for result in everything]
    flags = torch.tensor(missing, device=everything[0].value.device)
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MIN)
    for result, flag in zip(everything, flags.tolist(), strict=True):
        result.is_missing = bool(flag)


def _mean_over_types(
    results: list[_Result], weights: Mapping[str, float] | None, names: Sequence[str]
) -> torch.Tensor:
    """Return the weighted mean over the types that have labels; NaN if none has."""
    weight_of = weights or dict.fromkeys(names, 1.0)
    there = [
        (weight_of[name], result.value)
        for name, result in zip(names, results, strict=True)
        if not result.is_missing
    ]
    if not there:
        return results[0].value
    total = sum(weight for weight, _ in there)
    return torch.stack([weight * value for weight, value in there]).sum() / total


def _require_volume(name: str, cell: torch.Tensor, stress: torch.Tensor) -> None:
    """Raise a DataError if a frame has a stress label and a cell without volume."""
    vectors = cell.reshape(-1, 3, 3)
    volume = (vectors[:, 0] * torch.linalg.cross(vectors[:, 1], vectors[:, 2])).sum(-1)
    labelled = ~torch.isnan(stress.reshape(vectors.shape[0], -1)).all(dim=-1)
    wrong = torch.nonzero((volume == 0) & labelled).flatten().tolist()
    if wrong:
        raise DataError(
            f"'{name}' met stress labels of frames whose cell has no volume, frames {wrong} of the "
            "batch; such frames have no stress: make these labels NaN and set 'ignore_nan: true'"
        )


def _masked(
    metric: torchmetrics.Metric,
    name: str,
    ignore_nan: bool,
    predicted: torch.Tensor,
    wanted: torch.Tensor,
) -> _Result:
    """Return the value over the labels that are there."""
    missing = torch.isnan(wanted)
    if missing.any():
        if not ignore_nan:
            raise DataError(
                f"'{name}' met NaN labels; set 'ignore_nan: true' on it if they stand for "
                "missing ones"
            )
        predicted, wanted = predicted[~missing], wanted[~missing]
    if wanted.numel():
        return _Result(metric(predicted, wanted), False)
    if metric.dist_sync_on_step:
        # Other processes may have labels and wait for this one.
        return _Result(metric(predicted, wanted), True)
    return _Result(torch.full((), torch.nan, dtype=torch.float64, device=wanted.device), True)
