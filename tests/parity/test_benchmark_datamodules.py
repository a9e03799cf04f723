"""Data modules of published data sets choose the frames that the reference chooses.

The files are there already, in the form of the published ones, so nothing is downloaded.
"""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

pytestmark = pytest.mark.filterwarnings("ignore")  # raised inside the reference

theirs = pytest.importorskip("nequip.data.datamodule", reason="the parity session installs nequip")
npz_modules = pytest.importorskip(
    "nequip_train.data.benchmark_npz", reason="the parity session installs nequip-train"
)
xyz_modules = pytest.importorskip(
    "nequip_train.data.benchmark_xyz", reason="the parity session installs nequip-train"
)


@pytest.fixture(autouse=True)
def float64():
    """The reference makes frames of the default dtype, which it sets to float64 in its commands."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def write_npz(path, count, keys=("R", "z", "E", "F")):
    rng = np.random.default_rng(count)
    values = (
        rng.normal(size=(count, 3, 3)),
        np.array([8, 1, 1], dtype=np.uint8),
        rng.normal(size=(count, 1)),
        rng.normal(size=(count, 3, 3)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **dict(zip(keys, values, strict=True)))


def write_xyz(path, count, names=None):
    rng = np.random.default_rng(count)
    structures = []
    for _ in range(count):
        atoms = molecule("H2O")
        atoms.positions += rng.normal(scale=0.1, size=(3, 3))
        energy, forces = rng.normal(), rng.normal(size=(3, 3))
        if names:
            atoms.info[names[0]], atoms.arrays[names[1]] = energy, forces
        else:
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        structures.append(atoms)
    path.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(path, structures, format="extxyz")


def same_parts(ours, other):
    for stage in ("fit", "test"):
        ours.setup(stage)
        other.setup(stage)
    for part in ("train", "val", "test"):
        expected = getattr(other, f"{part}_dataset")
        assert len(ours.datasets[part]) == len(expected) > 0
        for mine, reference in zip(ours.datasets[part], expected, strict=True):
            assert len(mine) == len(reference) > 0
            for index in range(len(mine)):
                frame, wanted = mine[index], reference[index]
                assert set(frame) == set(wanted)
                for key, value in wanted.items():
                    assert frame[key].shape == value.shape, key
                    assert torch.equal(frame[key], value), key


def both(modules, name, folder, **arguments):
    common = {"data_source_dir": str(folder), "transforms": [], "seed": 7, **arguments}
    return getattr(modules, name)(**common), getattr(theirs, name)(**common)


@pytest.mark.parametrize("subset", [None, [12, 4]])
def test_sgdml(tmp_path, subset):
    for part, count in (("train", 20), ("test", 9)):
        write_npz(tmp_path / f"toluene_ccsd_t-{part}.npz", count)
    arguments = {"dataset": "toluene", "train_val_split": [0.75, 0.25]}
    same_parts(
        *both(
            npz_modules,
            "sGDML_CCSD_DataModule",
            tmp_path,
            trainval_test_subset=subset,
            **arguments,
        )
    )


@pytest.mark.parametrize("length", [None, 10])
def test_rmd17(tmp_path, length):
    keys = ("coords", "nuclear_charges", "energies", "forces")
    write_npz(tmp_path / "rmd17/npz_data/rmd17_uracil.npz", 20, keys)
    arguments = {"dataset": "uracil", "train_val_test_split": [0.5, 0.3, 0.2]}
    same_parts(*both(npz_modules, "rMD17DataModule", tmp_path, subset_len=length, **arguments))


def test_md22(tmp_path, monkeypatch):
    file = npz_modules.MD22_SYSTEMS["stachyose"][0]
    assert {name: list(row) for name, row in npz_modules.MD22_SYSTEMS.items()} == {
        name: list(row) for name, row in theirs.MD22DataModule.dataset_map.items()
    }
    monkeypatch.setitem(npz_modules.MD22_SYSTEMS, "stachyose", (file, 12, 20))
    monkeypatch.setitem(theirs.MD22DataModule.dataset_map, "stachyose", [file, 12, 20])
    write_npz(tmp_path / file, 20)
    arguments = {"dataset": "stachyose", "train_val_split": [8, 4]}
    same_parts(*both(npz_modules, "MD22DataModule", tmp_path, **arguments))


def test_3bpa(tmp_path):
    for number, name in enumerate(("train_300K", "test_600K", "test_dih_beta120")):
        write_xyz(tmp_path / "dataset_3BPA" / f"{name}.xyz", 10 + number)
    arguments = {"train_val_split": [8, 2], "test_sets": ["600K", "dih_beta120"]}
    same_parts(*both(xyz_modules, "NequIP3BPADataModule", tmp_path, **arguments))


def test_tm23(tmp_path):
    for part, count in (("train", 10), ("test", 4)):
        file = f"benchmarking_master_collection/Pd_2700cwm_{part}.xyz"
        write_xyz(tmp_path / file, count)
    arguments = {"element": "Pd", "train_val_split": [0.9, 0.1]}
    same_parts(*both(xyz_modules, "TM23DataModule", tmp_path, **arguments))


@pytest.mark.parametrize("include_ood", [True, False])
def test_samd23(tmp_path, include_ood):
    for number, name in enumerate(("Trainset", "Validset", "Testset", "OOD")):
        write_xyz(tmp_path / "HfO" / f"{name}.xyz", 2 + number)
    same_parts(*both(xyz_modules, "SAMD23DataModule", tmp_path, include_ood=include_ood))


def test_water(tmp_path):
    write_xyz(tmp_path / "dataset_1593_eVAng.xyz", 10, ("TotEnergy", "force"))
    arguments = {"train_val_test_split": [6, 3, 1]}
    same_parts(*both(xyz_modules, "WaterDataModule", tmp_path, **arguments))


def test_coll(tmp_path):
    for number, part in enumerate(("train", "val", "test")):
        write_xyz(tmp_path / f"coll_v1.2_AE_{part}.xyz", 3 + number)
    same_parts(*both(xyz_modules, "COLLDataModule", tmp_path))
