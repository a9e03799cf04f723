"""Every documented name that a training config may hold, with its documented arguments.

The table ``documented_targets.yaml`` is the documented interface of nequip 0.19. Each name is built
twice by the config loader's own code: with what it needs alone, and with every documented default
written out.
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
import yaml
from ase.build import molecule

from nequip_core.documented_names import DOCUMENTED_NAMES, canonical_name
from nequip_core.instantiate import import_object
from nequip_model.builder import model_builder
from nequip_train.construction import accepted_arguments, argument_mistake, build
from nequip_train.resolvers import _RESOLVERS, STATISTICS_RESOLVER

REQUIRED = "<required>"
DOCUMENTED: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("documented_targets.yaml").read_text()
)

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


def of_kinds(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what single classes need, by their names."""
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    return {
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


def needed(name: str, folder: Path) -> dict[str, Any]:
    """Return values of the required arguments of a documented name."""
    given = of_kinds(folder).get(name.rpartition(".")[2], {})
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
    asked = [argument for argument, value in DOCUMENTED[name].items() if value == REQUIRED]
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
    written = {key: value for key, value in DOCUMENTED[name].items() if value != REQUIRED}
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
        if default == REQUIRED or argument == "avg_num_neighbors":
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
