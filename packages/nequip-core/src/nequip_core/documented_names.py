"""The documented ``nequip.*`` names and the objects of this project that they mean.

One table serves the config loader, the checkpoint reader and the facade distribution alike: a
``_target_`` such as ``nequip.model.NequIPGNNModel`` in a config or a checkpoint resolves to ours
whether the facade, or any other distribution named ``nequip``, is installed or not.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["DOCUMENTED_NAMES", "canonical_name", "facade_module"]

# parent of the documented names -> {module of ours: names}
_TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "nequip.data": {
        "nequip_core.frames": ("from_dict",),
        "nequip_core.ase_conversion": ("from_ase", "to_ase"),
        "nequip_core.neighbors": (
            "DEFAULT_NEIGHBORLIST_BACKEND",
            "compute_neighborlist_",
            "register_neighborlist_backend",
        ),
        "nequip_core.fields": ("register_fields", "deregister_fields", "get_field_type"),
        "nequip_train.data.statistics": (
            "CommonDataStatisticsManager",
            "DataStatisticsManager",
            "EnergyOnlyDataStatisticsManager",
            "Count",
            "Max",
            "Mean",
            "MeanAbsolute",
            "Min",
            "RootMeanSquare",
            "StandardDeviation",
        ),
        "nequip_train.data.modifiers": (
            "BaseModifier",
            "EdgeLengths",
            "NumNeighbors",
            "PerAtomModifier",
        ),
    },
    "nequip.data._nl": {
        "nequip_core.neighbors": (
            "DEFAULT_NEIGHBORLIST_BACKEND",
            "NEIGHBORLIST_BACKEND_ALCHEMIOPS",
            "NEIGHBORLIST_BACKEND_ASE",
            "NEIGHBORLIST_BACKEND_MATSCIPY",
            "NEIGHBORLIST_BACKEND_OPTIONS",
            "NEIGHBORLIST_BACKEND_VESIN",
            "NeighborlistBackendSpec",
            "compute_neighborlist_",
            "register_neighborlist_backend",
        ),
    },
    "nequip.data.datamodule": {
        "nequip_train.data.datamodules": ("ASEDataModule", "NequIPDataModule"),
    },
    "nequip.data.dataset": {
        "nequip_train.data.datasets": (
            "ASEDataset",
            "AtomicDataset",
            "EMTTestDataset",
            "RandomSplitAndIndexDataset",
            "SubsetByRandomSlice",
        ),
    },
    "nequip.data.transforms": {
        "nequip_core.transforms": (
            "AddNaNStressTransform",
            "ChemicalSpeciesToAtomTypeMapper",
            "NeighborListTransform",
            "StressSignFlipTransform",
            "VirialToStressTransform",
        ),
    },
    "nequip.model": {
        "nequip_model.gnn": ("FullNequIPGNNModel", "NequIPGNNModel"),
        "nequip_model.presets": ("PresetNequIPGNNModel",),
        "nequip_model.pair_potentials": ("ZBLPairPotential",),
        "nequip_model.builder": ("model_builder",),
    },
    "nequip.nn.pair_potential": {
        "nequip_model.nn.pair_potential": ("LennardJones", "SimpleLennardJones", "ZBL"),
    },
    "nequip.train": {
        "nequip_train.modules": ("EMALightningModule", "NequIPLightningModule"),
        "nequip_train.metrics": (
            "HuberLoss",
            "MaximumAbsoluteError",
            "MeanAbsoluteError",
            "MeanSquaredError",
            "RootMeanSquaredError",
        ),
        "nequip_train.metrics_manager": ("MetricsManager",),
        "nequip_train.losses": (
            "EnergyForceLoss",
            "EnergyForceMetrics",
            "EnergyForceStressLoss",
            "EnergyForceStressMetrics",
            "EnergyOnlyLoss",
            "EnergyOnlyMetrics",
        ),
    },
    "nequip.integrations.ase": {"nequip_integrations.ase": ("NequIPCalculator",)},
    "nequip.ase": {"nequip_integrations.ase": ("NequIPCalculator",)},
}

# documented name -> name of ours, where the two differ in more than the module
_RENAMED: dict[str, str] = {
    "nequip.data.AtomicDataDict": "nequip_core.atomic_data_dict",
    "nequip.scripts.train.main": "nequip_train.command.main",
    "nequip.scripts.package.main": "nequip_package.command.main",
    "nequip.scripts.compile.main": "nequip_compile.command.main",
}

DOCUMENTED_NAMES: dict[str, str] = {
    **{
        f"{parent}.{name}": f"{module}.{name}"
        for parent, modules in _TABLE.items()
        for module, names in modules.items()
        for name in names
    },
    **_RENAMED,
}
"""Every documented name that this version provides, with the dotted path of our object."""


def canonical_name(path: str) -> str:
    """Return the dotted path of our object for a documented name, any other path unchanged.

    A path below a documented name (a classmethod, say) is carried along.
    """
    if path in DOCUMENTED_NAMES:
        return DOCUMENTED_NAMES[path]
    parent, _, tail = path.rpartition(".")
    if parent in DOCUMENTED_NAMES:
        return f"{DOCUMENTED_NAMES[parent]}.{tail}"
    return path


def facade_module(module: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__all__``, ``__getattr__`` and ``__dir__`` of a facade module.

    Args:
        module: the facade module's ``__name__``, e.g. ``nequip.model``.
    """
    prefix = f"{module}."
    names = sorted(
        name.removeprefix(prefix)
        for name in DOCUMENTED_NAMES
        if name.startswith(prefix) and "." not in name.removeprefix(prefix)
    )

    def resolve(name: str) -> Any:
        path = DOCUMENTED_NAMES.get(f"{prefix}{name}")
        if path is None:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        owner, _, attribute = path.rpartition(".")
        parent = importlib.import_module(owner)
        if hasattr(parent, attribute):
            return getattr(parent, attribute)
        return importlib.import_module(path)

    return names, resolve, lambda: names
