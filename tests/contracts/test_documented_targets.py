"""Every documented name that a training config may hold, with its documented arguments.

The table is the documented interface of nequip 0.19: name -> argument -> default, `REQUIRED` where
there is none. Each is built twice by the config loader's own code: with what it needs alone, and
with every documented default written out.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import pytest
import torch
from ase.build import molecule

from nequip_core.documented_names import DOCUMENTED_NAMES, canonical_name
from nequip_core.instantiate import import_object
from nequip_model.builder import model_builder
from nequip_train.construction import accepted_arguments, argument_mistake, build
from nequip_train.resolvers import _RESOLVERS, STATISTICS_RESOLVER

REQUIRED = object()
FILE = "a file of the test"

SPECIES = ["H", "O"]
MODEL = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 1,
    "model_dtype": "float32",
    "type_names": SPECIES,
    "r_max": 3.0,
    "num_layers": 2,
    "num_features": 2,
    "radial_mlp_width": 4,
    "avg_num_neighbors": 2.0,
}
EMT = {"_target_": "nequip.data.dataset.EMTTestDataset", "num_frames": 4, "supercell": [1, 1, 1]}
ADAM = {"_target_": "torch.optim.Adam", "lr": 0.01}
LOSS = {"_target_": "nequip.train.EnergyForceLoss"}
ENERGY_TERMS = [
    f"{q}_{k}" for q in ("total_energy", "per_atom_energy") for k in ("rmse", "mae", "maxabserr")
]
FORCE_TERMS = [f"forces_{k}" for k in ("rmse", "mae", "maxabserr")]
STRESS_TERMS = [f"stress_{k}" for k in ("rmse", "mae", "maxabserr")]

DATA = {
    **{f"{part}_dataset": [] for part in ("train", "val", "test", "predict", "split")},
    **{f"{part}_dataloader": {} for part in ("train", "val", "test", "predict")},
    "stats_manager": None,
}
ASE_DATA = {
    **{f"{part}_file_path": [] for part in ("train", "val", "test", "predict")},
    "split_dataset": [],
    "transforms": [],
    "ase_args": {},
    "include_keys": [],
    "exclude_keys": [],
    "key_mapping": {},
}
BENCHMARK = {"seed": REQUIRED, "data_source_dir": REQUIRED, "transforms": REQUIRED}
MODULE = {
    "model": REQUIRED,
    "num_datasets": REQUIRED,
    "optimizer": None,
    "lr_scheduler": None,
    "loss": None,
    "train_metrics": None,
    "val_metrics": None,
    "test_metrics": None,
    "info_dict": None,
}
CONFIG = {
    "gradient_clip_val": None,
    "gradient_clip_algorithm": None,
    "lsqr": True,
    "norm_eps": 1e-8,
}
XYZ = {
    "out_file": REQUIRED,
    "output_fields_from_original_dataset": [],
    "extra_fields": [],
    "chemical_symbols": None,
}
NETWORK = {
    "per_edge_type_cutoff": None,
    "num_bessels": 8,
    "bessel_trainable": False,
    "polynomial_cutoff_p": 6,
    "avg_num_neighbors": 2.0,  # documented as null, which is refused
    "readout_mlp_hidden_layers_depth": 0,
    "readout_mlp_hidden_layers_width": None,
    "readout_mlp_nonlinearity": "silu",
    "per_type_energy_scales": None,
    "per_type_energy_shifts": None,
    "per_type_energy_scales_trainable": False,
    "per_type_energy_shifts_trainable": False,
    "pair_potential": None,
    "do_derivatives": True,
}
SHARED = {
    "seed": REQUIRED,
    "model_dtype": REQUIRED,
    "type_names": REQUIRED,
    "r_max": REQUIRED,
    "compile_mode": "eager",
}

DOCUMENTED: dict[str, dict[str, Any]] = {
    "nequip.data.datamodule.NequIPDataModule": {"seed": REQUIRED, **DATA},
    "nequip.data.datamodule.ASEDataModule": {
        "seed": REQUIRED,
        **{key: value for key, value in DATA.items() if "_dataset" not in key},
        **ASE_DATA,
    },
    "nequip.data.datamodule.sGDML_CCSD_DataModule": {
        **BENCHMARK,
        "dataset": REQUIRED,
        "train_val_split": REQUIRED,
        "trainval_test_subset": None,
    },
    "nequip.data.datamodule.rMD17DataModule": {
        **BENCHMARK,
        "dataset": REQUIRED,
        "train_val_test_split": REQUIRED,
        "subset_len": None,
    },
    "nequip.data.datamodule.MD22DataModule": {
        **BENCHMARK,
        "dataset": REQUIRED,
        "train_val_split": REQUIRED,
    },
    "nequip.data.datamodule.NequIP3BPADataModule": {
        **BENCHMARK,
        "train_val_split": REQUIRED,
        "train_set": "300K",
        "test_sets": ["300K", "600K", "1200K", "dih_beta120", "dih_beta150", "dih_beta180"],
    },
    "nequip.data.datamodule.TM23DataModule": {
        **BENCHMARK,
        "element": REQUIRED,
        "train_val_split": REQUIRED,
    },
    "nequip.data.datamodule.SAMD23DataModule": {
        **BENCHMARK,
        "system": "HfO",
        "include_ood": True,
    },
    "nequip.data.datamodule.WaterDataModule": {**BENCHMARK, "train_val_test_split": REQUIRED},
    "nequip.data.datamodule.COLLDataModule": BENCHMARK,
    "nequip.data.dataset.ASEDataset": {
        "file_path": REQUIRED,
        "transforms": [],
        "ase_args": {},
        "include_keys": [],
        "exclude_keys": [],
        "key_mapping": {},
    },
    "nequip.data.dataset.NPZDataset": {
        "file_path": REQUIRED,
        "transforms": [],
        "key_mapping": {
            "R": "pos",
            "z": "atomic_numbers",
            "E": "total_energy",
            "F": "forces",
        },
    },
    "nequip.data.dataset.HDF5Dataset": {
        "file_name": REQUIRED,
        "transforms": [],
        "key_mapping": {
            "pos": "pos",
            "energy": "total_energy",
            "forces": "forces",
            "atomic_numbers": "atomic_numbers",
            "types": "atom_types",
        },
    },
    "nequip.data.dataset.NequIPLMDBDataset": {
        "file_path": REQUIRED,
        "transforms": [],
        "exclude_keys": [],
    },
    "nequip.data.dataset.EMTTestDataset": {
        "transforms": [],
        "supercell": (4, 4, 4),
        "sigma": 0.1,
        "element": "Cu",
        "num_frames": 10,
        "seed": 123456,
    },
    "nequip.data.dataset.LMDBTestDataset": {
        "file_path": REQUIRED,
        "transforms": [],
        "supercell": (4, 4, 4),
        "sigma": 0.1,
        "element": "Cu",
        "num_frames": 10,
        "seed": 123456,
    },
    "nequip.data.dataset.SubsetByRandomSlice": {
        "dataset": REQUIRED,
        "start": REQUIRED,
        "length": REQUIRED,
        "seed": REQUIRED,
    },
    "nequip.data.dataset.RandomSplitAndIndexDataset": {
        "dataset": REQUIRED,
        "split_dict": REQUIRED,
        "dataset_key": REQUIRED,
        "seed": REQUIRED,
    },
    "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper": {
        "model_type_names": SPECIES,  # documented as null, which is refused
        "chemical_species_to_atom_type_map": None,
        "chemical_symbols": None,
    },
    "nequip.data.transforms.NeighborListTransform": {
        "r_max": REQUIRED,
        "per_edge_type_cutoff": None,
        "type_names": None,
        "backend": "matscipy",
    },
    "nequip.data.transforms.SortedNeighborListTransform": {
        "r_max": REQUIRED,
        "per_edge_type_cutoff": None,
        "type_names": None,
        "backend": "matscipy",
    },
    "nequip.data.transforms.NeighborListPruneTransform": {
        "r_max": REQUIRED,
        "per_edge_type_cutoff": REQUIRED,
        "type_names": REQUIRED,
    },
    "nequip.data.transforms.VirialToStressTransform": {},
    "nequip.data.transforms.StressSignFlipTransform": {},
    "nequip.data.transforms.AddNaNStressTransform": {},
    "nequip.data.transforms.NonPeriodicCellTransform": {"padding": 10.0, "override_cell": False},
    "nequip.data.transforms.DatasetIndexTransform": {"dataset_index": REQUIRED},
    "nequip.data.CommonDataStatisticsManager": {"dataloader_kwargs": None, "type_names": REQUIRED},
    "nequip.data.EnergyOnlyDataStatisticsManager": {
        "dataloader_kwargs": None,
        "type_names": REQUIRED,
    },
    "nequip.data.DataStatisticsManager": {
        "metrics": REQUIRED,
        "dataloader_kwargs": None,
        "type_names": None,
    },
    "nequip.data.BaseModifier": {"field": REQUIRED},
    "nequip.data.PerAtomModifier": {"field": REQUIRED, "factor": None},
    "nequip.data.MappedFieldModifier": {"pred_field": REQUIRED, "target_field": REQUIRED},
    "nequip.data.EdgeLengths": {},
    "nequip.data.NumNeighbors": {},
    "nequip.data.Count": {},
    "nequip.data.Mean": {},
    "nequip.data.MeanAbsolute": {},
    "nequip.data.RootMeanSquare": {},
    "nequip.data.StandardDeviation": {"squared": False, "unbiased": True},
    "nequip.data.Max": {"abs": False},
    "nequip.data.Min": {"abs": False},
    "nequip.data.PartialSampler": {
        "data_source": REQUIRED,
        "shuffle": True,
        "num_samples_per_epoch": None,
        "generator": None,
    },
    "nequip.train.NequIPLightningModule": MODULE,
    "nequip.train.EMALightningModule": {**MODULE, "ema_decay": 0.999},
    "nequip.train.ConFIGLightningModule": {**MODULE, **CONFIG},
    "nequip.train.EMAConFIGLightningModule": {**MODULE, **CONFIG, "ema_decay": 0.999},
    "nequip.train.ScheduleFreeLightningModule": {**MODULE, "optimizer": REQUIRED},
    "nequip.train.SimpleDDPStrategy": {
        "accelerator": None,
        "parallel_devices": None,
        "cluster_environment": None,
        "checkpoint_io": None,
        "precision_plugin": None,
        "ddp_comm_state": None,
        "ddp_comm_hook": None,
        "ddp_comm_wrapper": None,
        "model_averaging_period": None,
        "process_group_backend": None,
        "start_method": "popen",
    },
    "nequip.train.MuonWithAuxAdam": {"params": REQUIRED},
    "nequip.train.MetricsManager": {"metrics": REQUIRED, "type_names": None},
    "nequip.train.EnergyForceLoss": {
        "coeffs": {"total_energy": 1.0, "forces": 1.0},
        "per_atom_energy": True,
        "per_type_forces_coeffs": None,
        "type_names": None,
        "extra_metrics": None,
    },
    "nequip.train.EnergyForceStressLoss": {
        "coeffs": {"total_energy": 1.0, "forces": 1.0, "stress": 1.0},
        "per_atom_energy": True,
        "per_type_forces_coeffs": None,
        "type_names": None,
        "ignore_nan": None,
        "extra_metrics": None,
    },
    "nequip.train.EnergyOnlyLoss": {
        "per_atom_energy": True,
        "type_names": None,
        "extra_metrics": None,
    },
    "nequip.train.EnergyOnlyMetrics": {
        "coeffs": {**dict.fromkeys(ENERGY_TERMS), "total_energy_rmse": 1.0},
        "type_names": None,
        "extra_metrics": None,
    },
    "nequip.train.EnergyForceMetrics": {
        "coeffs": {
            **dict.fromkeys(ENERGY_TERMS + FORCE_TERMS),
            "total_energy_rmse": 1.0,
            "forces_rmse": 1.0,
        },
        "type_names": None,
        "extra_metrics": None,
    },
    "nequip.train.EnergyForceStressMetrics": {
        "coeffs": {
            **dict.fromkeys(ENERGY_TERMS + FORCE_TERMS + STRESS_TERMS),
            "total_energy_rmse": 1.0,
            "forces_rmse": 1.0,
            "stress_rmse": 1.0,
        },
        "type_names": None,
        "ignore_nan": None,
        "extra_metrics": None,
    },
    "nequip.train.MeanAbsoluteError": {},
    "nequip.train.MeanSquaredError": {},
    "nequip.train.RootMeanSquaredError": {},
    "nequip.train.MaximumAbsoluteError": {},
    "nequip.train.HuberLoss": {"reduction": "mean", "delta": 1.0},
    "nequip.train.StratifiedHuberForceLoss": {"delta_dict": REQUIRED, "reduction": "mean"},
    "nequip.train.callbacks.SoftAdapt": {
        "beta": REQUIRED,
        "interval": REQUIRED,
        "frequency": REQUIRED,
        "eps": 1e-8,
    },
    "nequip.train.callbacks.LossCoefficientScheduler": {"schedule": REQUIRED},
    "nequip.train.callbacks.LinearLossCoefficientScheduler": {
        "final_coeffs": REQUIRED,
        "transition_epochs": REQUIRED,
        "start_epoch": 0,
    },
    "nequip.train.callbacks.LossCoefficientMonitor": {"interval": REQUIRED, "frequency": REQUIRED},
    "nequip.train.callbacks.TF32Scheduler": {"schedule": REQUIRED},
    "nequip.train.callbacks.TestTimeXYZFileWriter": XYZ,
    "nequip.train.callbacks.ValTimeXYZFileWriter": {
        "separate_file_per_epoch": False,
        "every_n_epochs": 1,
        **XYZ,
    },
    "nequip.train.callbacks.WandbWatch": {
        "log_freq": REQUIRED,
        "log": "gradients",
        "log_graph": False,
    },
    "nequip.train.callbacks.TrainingStatsMonitor": {
        "log_freq": 100,
        "log_weights": True,
        "log_gradients": True,
        "log_optimizer_states": True,
    },
    "nequip.model.NequIPGNNModel": {
        **SHARED,
        "num_layers": 4,
        "l_max": 1,
        "parity": True,
        "num_features": 32,
        "type_embed_num_features": None,
        "radial_mlp_depth": 1,
        "radial_mlp_width": 128,
        **NETWORK,
    },
    "nequip.model.PresetNequIPGNNModel": {**SHARED, "preset": REQUIRED, **NETWORK},
    "nequip.model.FullNequIPGNNModel": {
        **SHARED,
        "radial_mlp_depth": REQUIRED,
        "radial_mlp_width": REQUIRED,
        "feature_irreps_hidden": REQUIRED,
        "irreps_edge_sh": REQUIRED,
        "type_embed_num_features": REQUIRED,
        **NETWORK,
        "convnet_sc": True,
        "learnable_shift": False,
        "convnet_resnet": False,
        "convnet_nonlinearity_type": "gate",
        "convnet_nonlinearity_scalars": {"e": "silu", "o": "tanh"},
        "convnet_nonlinearity_gates": {"e": "silu", "o": "tanh"},
        "categorical_graph_field_embed": None,
    },
    "nequip.model.ZBLPairPotential": {
        **SHARED,
        "units": REQUIRED,
        "chemical_species": REQUIRED,
    },
    "nequip.model.modify": {"model": REQUIRED, "modifiers": REQUIRED},
    "nequip.model.MuonParamGroups": {"model": REQUIRED, "muon": REQUIRED, "adam": REQUIRED},
}

# Documented, but they need a file that a training writes: tested where trainings are.
WITH_FILES = ("ModelFromCheckpoint", "ModelFromPackage", "ModelTypeNamesFromPackage")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the water molecule in every documented format."""
    tmp_path = tmp_path_factory.mktemp("files")
    atoms = molecule("H2O")
    ase.io.write(tmp_path / "frames.xyz", [atoms] * 4)
    arrays = {
        "R": np.stack([atoms.positions] * 4),
        "E": np.zeros(4),
        "F": np.zeros((4, 3, 3)),
        "z": atoms.numbers,
    }
    np.savez(tmp_path / "frames.npz", **arrays)
    with h5py.File(tmp_path / "frames.hdf5", "w") as file:
        group = file.create_group("water")
        group["pos"], group["forces"] = arrays["R"], arrays["F"]
        group["energy"], group["atomic_numbers"] = arrays["E"], np.stack([atoms.numbers] * 4)
    build(
        {
            "_target_": "nequip.data.dataset.LMDBTestDataset",
            "file_path": str(tmp_path / "frames.lmdb"),
            "num_frames": 4,
            "supercell": [1, 1, 1],
        },
        "lmdb",
    )
    return tmp_path


def needed(name: str, folder: Path) -> dict[str, Any]:
    """Return values of the required arguments of a documented name."""
    kind = name.rpartition(".")[2]
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    of_kind: dict[str, dict[str, Any]] = {
        "sGDML_CCSD_DataModule": {"dataset": "aspirin", "train_val_split": [950, 50]},
        "rMD17DataModule": {"dataset": "aspirin", "train_val_test_split": [5, 5, 5]},
        "MD22DataModule": {"dataset": "dha", "train_val_split": [5, 5]},
        "NequIP3BPADataModule": {"train_val_split": [5, 5]},
        "TM23DataModule": {"element": "Cu", "train_val_split": [0.9, 0.1]},
        "WaterDataModule": {"train_val_test_split": [5, 5, 5]},
        "ASEDataset": {"file_path": str(folder / "frames.xyz")},
        "NPZDataset": {"file_path": str(folder / "frames.npz")},
        "HDF5Dataset": {"file_name": str(folder / "frames.hdf5")},
        "NequIPLMDBDataset": {"file_path": str(folder / "frames.lmdb")},
        "LMDBTestDataset": {"file_path": str(folder / "new.lmdb")},
        "SubsetByRandomSlice": {"dataset": EMT, "start": 1, "length": 2, "seed": 1},
        "RandomSplitAndIndexDataset": {
            "dataset": EMT,
            "split_dict": {"train": 3, "val": 1},
            "dataset_key": "train",
            "seed": 1,
        },
        "ChemicalSpeciesToAtomTypeMapper": {"model_type_names": SPECIES},
        "NeighborListPruneTransform": {
            "per_edge_type_cutoff": {"H": 2.0},
            "type_names": SPECIES,
        },
        "DatasetIndexTransform": {"dataset_index": 1},
        "DataStatisticsManager": {
            "metrics": [{"field": "forces", "metric": {"_target_": "nequip.data.Mean"}}]
        },
        "BaseModifier": {"field": "forces"},
        "PerAtomModifier": {"field": "total_energy"},
        "MappedFieldModifier": {"pred_field": "forces", "target_field": "forces"},
        "PartialSampler": {"data_source": range(4)},
        "ScheduleFreeLightningModule": {"optimizer": {"_target_": "schedulefree.SGDScheduleFree"}},
        "MuonWithAuxAdam": {"params": [{"params": [parameter], "use_muon": True}]},
        "MetricsManager": {
            "metrics": [
                {"field": "forces", "metric": {"_target_": "nequip.train.MeanSquaredError"}}
            ]
        },
        "StratifiedHuberForceLoss": {"delta_dict": {0: 0.01, 1: 0.1}},
        "SoftAdapt": {"beta": 1.1, "interval": "epoch", "frequency": 5},
        "LossCoefficientScheduler": {"schedule": {100: {"forces_mse": 1.0}}},
        "LinearLossCoefficientScheduler": {
            "final_coeffs": {"forces_mse": 1.0},
            "transition_epochs": 5,
        },
        "LossCoefficientMonitor": {"interval": "epoch", "frequency": 5},
        "TF32Scheduler": {"schedule": {0: True}},
        "WandbWatch": {"log_freq": 10},
        "PresetNequIPGNNModel": {"preset": "S"},
        "FullNequIPGNNModel": {
            "radial_mlp_depth": [1],
            "radial_mlp_width": [4],
            "feature_irreps_hidden": ["4x0e"],
            "irreps_edge_sh": 1,
            "type_embed_num_features": 4,
        },
        "ZBLPairPotential": {"units": "metal", "chemical_species": SPECIES},
        "modify": {"modifiers": [{"modifier": "disable_ForceStressOutput"}], "model": MODEL},
        "MuonParamGroups": {"model": torch.nn.Linear(2, 2), "muon": {}, "adam": {}},
    }
    general = {
        "seed": 1,
        "model_dtype": "float32",
        "type_names": SPECIES,
        "r_max": 3.0,
        "data_source_dir": str(folder),
        "transforms": [],
        "model": MODEL,
        "num_datasets": {"train": 1, "val": 1, "test": 1, "predict": 0},
        "out_file": str(folder / "out"),
        "avg_num_neighbors": 2.0,
    }
    given = of_kind.get(kind, {})
    asked = [argument for argument, value in DOCUMENTED[name].items() if value is REQUIRED]
    found = {argument: given.get(argument, general.get(argument)) for argument in asked}
    if "avg_num_neighbors" in DOCUMENTED[name]:
        found["avg_num_neighbors"] = 2.0
    return {**found, **given}


def nested(name: str) -> bool:
    """Return whether configs inside of this one are passed on as they are."""
    return "LightningModule" in name or name.endswith((".modify", "DataModule"))


def made(name: str, arguments: dict[str, Any]) -> Any:
    config = {"_target_": name, "_recursive_": not nested(name), **arguments}
    return build(config, name)


def skip_without_libraries(name: str) -> None:
    if "ScheduleFree" in name:
        pytest.importorskip("schedulefree", reason="an optional library")


@pytest.mark.parametrize("name", DOCUMENTED)
@pytest.mark.filterwarnings("ignore:The `srun` command is available")
def test_a_documented_target_is_built_from_what_it_needs(name: str, files: Path) -> None:
    skip_without_libraries(name)
    assert made(name, needed(name, files)) is not None


@pytest.mark.parametrize("name", DOCUMENTED)
@pytest.mark.filterwarnings("ignore:The `srun` command is available")
def test_a_documented_target_takes_its_documented_defaults(name: str, files: Path) -> None:
    skip_without_libraries(name)
    written = {key: value for key, value in DOCUMENTED[name].items() if value is not REQUIRED}
    if written.get("chemical_symbols", "") is None and "Mapper" in name:
        del written["chemical_symbols"]  # removed by nequip itself; only a null is documented
    if written.get("backend") == "matscipy":
        pytest.importorskip("matscipy", reason="an optional library")
    assert made(name, {**written, **needed(name, files)}) is not None


def plain(value: Any) -> Any:
    """Return a default in a form in which null, [] and {} for "nothing given" are one."""
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value] or None
    if hasattr(value, "items"):
        return {key: plain(entry) for key, entry in value.items()} or None
    return value


# Ours, each with its reason.
OTHER_DEFAULTS = {
    # Equal neighbor lists from a library that installs everywhere.
    ("NeighborListTransform", "backend"): "vesin",
    ("SortedNeighborListTransform", "backend"): "vesin",
    # Refused where missing, as by nequip, but by the signature.
    ("ChemicalSpeciesToAtomTypeMapper", "model_type_names"): None,
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_documented_target_has_the_documented_defaults(name: str) -> None:
    target = import_object(canonical_name(name))
    names, required, _ = accepted_arguments(target)
    found = {}
    for owner in [target, *(target.__mro__ if inspect.isclass(target) else ())]:
        for parameter in inspect.signature(owner).parameters.values():
            if parameter.default is not inspect.Parameter.empty:
                found.setdefault(parameter.name, parameter.default)
    kind = name.rpartition(".")[2]
    for argument, default in DOCUMENTED[name].items():
        if argument == "chemical_symbols" and "Mapper" in name:
            continue
        assert argument in names, argument
        if default is REQUIRED or argument == "avg_num_neighbors":
            continue
        if argument in required:
            raise AssertionError(f"{argument} is required, documented is the default {default}")
        if argument in ("coeffs", "key_mapping") and found[argument] is None:
            continue  # filled in inside; the values are compared below
        expected = OTHER_DEFAULTS.get((kind, argument), default)
        assert plain(found[argument]) == plain(expected), argument


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if "coeffs" in DOCUMENTED[name]])
def test_coefficients_by_default_are_the_documented_ones(name: str) -> None:
    target = import_object(canonical_name(name))
    ours, documented = target(), target(coeffs=DOCUMENTED[name]["coeffs"])
    assert {n: e.coeff for n, e in ours.entries.items()} == {
        n: e.coeff for n, e in documented.entries.items()
    }


@pytest.mark.parametrize("kind", ["NPZDataset", "HDF5Dataset"])
def test_keys_by_default_are_the_documented_ones(kind: str, files: Path) -> None:
    name = f"nequip.data.dataset.{kind}"
    arguments = needed(name, files)
    ours, documented = (
        made(name, arguments),
        made(name, {**arguments, "key_mapping": DOCUMENTED[name]["key_mapping"]}),
    )
    assert set(ours[0]) == set(documented[0]) >= {"pos", "total_energy", "forces"}


def test_the_table_has_every_documented_class_and_function_of_these_parents() -> None:
    parents = (
        "nequip.data.datamodule",
        "nequip.data.dataset",
        "nequip.data.transforms",
        "nequip.train",
        "nequip.train.callbacks",
        "nequip.model",
    )
    named = {name for name in DOCUMENTED_NAMES if name.rpartition(".")[0] in parents}
    in_python_only = {
        "nequip.data.dataset.AtomicDataset",  # a base class
        "nequip.model.model_builder",  # a decorator
        "nequip.model.override_model_compile_mode",  # a context
        *(f"nequip.model.{name}" for name in WITH_FILES),
    }
    assert named - in_python_only == {n for n in DOCUMENTED if n.rpartition(".")[0] in parents}


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("ModelFromCheckpoint", {"checkpoint_path": "a.ckpt", "compile_mode": "eager"}),
        ("ModelFromPackage", {"package_path": "a.nequip.zip", "compile_mode": "eager"}),
        ("ModelTypeNamesFromPackage", {"package_path": "a.nequip.zip"}),
    ],
)
def test_loaders_take_their_documented_arguments(kind: str, arguments: dict[str, Any]) -> None:
    target = import_object(canonical_name(f"nequip.model.{kind}"))
    assert argument_mistake(target, arguments, kind) is None


def test_every_documented_resolver_is_there() -> None:
    assert {
        "int_div",
        "int_mul",
        "concat_lists",
        "list_to_identity_dict",
        "list_to_constant_dict",
        "big_dataset_stats",
        "type_names_from_package",
        "cutoff_radius_from_package",
        STATISTICS_RESOLVER,
    } == {*_RESOLVERS, STATISTICS_RESOLVER}


def test_the_builder_decorator_is_the_documented_one() -> None:
    assert import_object(canonical_name("nequip.model.model_builder")) is model_builder
