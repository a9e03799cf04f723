"""What documented arguments expect beyond their annotations, and what is given to them by the run.

Annotations say "a mapping"; which keys it may have is decided by code that would have to be
imported. Tests compare this table with what that code accepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import partial

from nequip_core.documented_names import canonical_name
from nequip_train.check import STAGES
from nequip_train.checking.annotations import union
from nequip_train.checking.values import (
    ANYTHING,
    Checked,
    Choice,
    File,
    Items,
    Kind,
    Object,
    Scalar,
    Table,
)
from nequip_train.data.units import ENERGY_UNITS, LENGTH_UNITS, canonical_unit
from nequip_train.run_folder.options import RunFolderOptions

__all__ = ["EXPECTED", "PARTS", "SCHEDULER", "STATISTICS", "TOP_LEVEL", "expected_kind"]

PARTS = (*STAGES, "predict")
_NULL, _TEXT, _BOOL, _NUMBER = Scalar("null"), Scalar("str"), Scalar("bool"), Scalar("float")
_KINDS_OF_ERROR = ("rmse", "mae", "maxabserr")


def _optional(kind: Kind) -> Kind:
    return union([kind, _NULL])


def _one_or_more(kind: Kind) -> Kind:
    return _optional(union([kind, Items(kind)]))


def _closed(keys: Mapping[str, Kind], *required: str) -> Table:
    return Table(keys=keys, required=required, is_open=False, may_be_built=False)


def _coefficients(names: tuple[str, ...], all_required: bool) -> Kind:
    table = _closed(dict.fromkeys(names, _optional(_NUMBER)), *(names if all_required else ()))
    return _optional(table)


def _loss(*fields: str) -> dict[str, Kind]:
    nan = _optional(_closed(dict.fromkeys(fields, _BOOL)))
    return {"coeffs": _coefficients(fields, all_required=True), "ignore_nan": nan, **_EXTRA}


def _report(*fields: str) -> dict[str, Kind]:
    quantities = (fields[0], "per_atom_energy", *fields[1:])
    names = tuple(f"{quantity}_{kind}" for quantity in quantities for kind in _KINDS_OF_ERROR)
    nan = _optional(_closed(dict.fromkeys(fields, _BOOL)))
    return {"coeffs": _coefficients(names, all_required=False), "ignore_nan": nan, **_EXTRA}


_METRICS = Items(
    _closed(
        {
            "metric": Object("metric"),
            "field": ANYTHING,
            "coeff": _optional(_NUMBER),
            "name": _optional(_TEXT),
            "per_type": _BOOL,
            "per_type_coeffs": _optional(Table(_NUMBER)),
            "ignore_nan": _BOOL,
        },
        "metric",
    )
)
_EXTRA = {"extra_metrics": _optional(_METRICS)}
_STATISTICS = Items(
    _closed(
        {
            "field": ANYTHING,
            "metric": Object("statistic"),
            "per_type": _BOOL,
            "ignore_nan": _BOOL,
            "name": _optional(_TEXT),
        },
        "field",
        "metric",
    )
)
_SIZES = dict.fromkeys(PARTS, _NUMBER)
_DATA_FILE = File("data file")
_UNITS: dict[str, Kind] = {
    "energy_units": Checked("a unit of energy", partial(canonical_unit, "energy"), ENERGY_UNITS),
    "length_units": Checked("a unit of length", partial(canonical_unit, "length"), LENGTH_UNITS),
}
_NONLINEARITIES = ("silu", "mish", "gelu", "ssp", "tanh", "sigmoid", "softplus", "abs", "identity")
_NETWORK: dict[str, Kind] = {
    "readout_mlp_nonlinearity": _optional(Choice((*_NONLINEARITIES, "None", "null"))),
    "convnet_nonlinearity_type": Choice(("gate", "norm")),
}
_MODE = Choice(("min", "max"))
_FORCES = ("total_energy", "forces")
_STRESS = (*_FORCES, "stress")

SCHEDULER = _closed(
    {
        "scheduler": Object("scheduler"),
        "monitor": _optional(_TEXT),
        "interval": Choice(("epoch", "step")),
        "frequency": Scalar("int"),
        "strict": _BOOL,
        "name": _optional(_TEXT),
        "reduce_on_plateau": _BOOL,
    },
    "scheduler",
)
"""What ``training_module.lr_scheduler`` is."""

_OF_OPTIONS = {
    "bool": _BOOL,
    "float | None": _optional(_NUMBER),
    "int | None": _optional(Scalar("int")),
}
_RUN_FOLDER = _closed(
    {option.name: _OF_OPTIONS[str(option.type)] for option in fields(RunFolderOptions)}
)
TOP_LEVEL: dict[str, Kind] = {
    "ckpt_path": _optional(_TEXT),
    "force_restart": _optional(_BOOL),
    "run_folder": _optional(union([_BOOL, _RUN_FOLDER])),
}
"""Top-level key, the sections excepted -> what it is."""

_METHODS = Choice(("keep", "isolated_atoms", "least_squares"))
_SHIFTS = _closed({"method": _METHODS, "energies": _optional(Table(_NUMBER))}, "method")
_MODULES = (
    "NequIPLightningModule",
    "EMALightningModule",
    "ConFIGLightningModule",
    "EMAConFIGLightningModule",
    "ScheduleFreeLightningModule",
)
_DOCUMENTED: dict[str, dict[str, Kind]] = {
    **{
        f"nequip.train.{name}": {"energy_shifts": _optional(union([_METHODS, _SHIFTS]))}
        for name in _MODULES
    },
    "nequip.data.datamodule.NequIPDataModule": {
        "split_dataset": _one_or_more(
            _closed({"dataset": Object("data set"), **_SIZES}, "dataset")
        ),
    },
    "nequip.data.datamodule.ASEDataModule": {
        **{f"{part}_file_path": _one_or_more(_DATA_FILE) for part in PARTS},
        "split_dataset": _one_or_more(_closed({"file_path": _DATA_FILE, **_SIZES}, "file_path")),
        **_UNITS,
    },
    "nequip.data.dataset.ASEDataset": _UNITS,
    "nequip.data.dataset.NPZDataset": _UNITS,
    "nequip.data.dataset.NequIPLMDBDataset": _UNITS,
    "nequip.data.dataset.HDF5Dataset": _UNITS,
    "nequip.data.DataStatisticsManager": {"metrics": _STATISTICS},
    "nequip.train.MetricsManager": {"metrics": _METRICS},
    "nequip.train.EnergyOnlyLoss": _EXTRA,
    "nequip.train.EnergyForceLoss": _loss(*_FORCES),
    "nequip.train.EnergyForceStressLoss": _loss(*_STRESS),
    "nequip.train.EnergyOnlyMetrics": _report(_FORCES[0]),
    "nequip.train.EnergyForceMetrics": _report(*_FORCES),
    "nequip.train.EnergyForceStressMetrics": _report(*_STRESS),
    "nequip.model.NequIPGNNModel": _NETWORK,
    "nequip.model.FullNequIPGNNModel": _NETWORK,
    "nequip.model.PresetNequIPGNNModel": {
        **_NETWORK,
        "preset": Choice(("S", "M", "L", "XL"), ignores_case=True),
    },
    "nequip.model.ModelFromCheckpoint": {"checkpoint_path": File("checkpoint")},
    "lightning.Trainer": {"gradient_clip_algorithm": _optional(Choice(("norm", "value")))},
    "lightning.pytorch.callbacks.ModelCheckpoint": {"mode": _MODE},
    "lightning.pytorch.callbacks.EarlyStopping": {"mode": _MODE},
    "torch.optim.lr_scheduler.ReduceLROnPlateau": {"mode": _MODE},
}

EXPECTED: dict[str, dict[str, Kind]] = {
    canonical_name(target): arguments for target, arguments in _DOCUMENTED.items()
}
"""Path of a target, ours by its own name -> argument -> what it is."""

_NEIGHBORS = ("num_neighbors_mean", "per_type_num_neighbors_mean", "per_atom_energy_mean")
STATISTICS: dict[str, tuple[str, ...]] = {
    canonical_name("nequip.data.CommonDataStatisticsManager"): (
        *_NEIGHBORS,
        "forces_rms",
        "per_type_forces_rms",
    ),
    canonical_name("nequip.data.EnergyOnlyDataStatisticsManager"): (
        *_NEIGHBORS,
        "per_atom_energy_std",
        "total_energy_std",
    ),
}
"""Names of statistics by the path of their manager; of a per-type one also ``<name>_<type>``."""


def expected_kind(target: str, argument: str, default: Kind) -> Kind:
    """Return what an argument of a target expects.

    Args:
        target: as in a config.
        argument: its name.
        default: what the annotation says.
    """
    return EXPECTED.get(canonical_name(target), {}).get(argument, default)
