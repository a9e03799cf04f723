"""Data modules of published data sets, on small files in the form of the published ones."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from nequip_core.documented_names import DOCUMENTED_NAMES, canonical_name
from nequip_core.errors import ConfigError, MissingFileError
from nequip_core.instantiate import TARGET
from nequip_train.construction import build
from nequip_train.data import benchmark_npz, benchmark_xyz
from nequip_train.data.benchmark_npz import MD22DataModule, rMD17DataModule, sGDML_CCSD_DataModule
from nequip_train.data.benchmark_xyz import (
    COLLDataModule,
    NequIP3BPADataModule,
    SAMD23DataModule,
    TM23DataModule,
    WaterDataModule,
)

MODULES = {name: path for name, path in DOCUMENTED_NAMES.items() if ".benchmark_" in path}


def npz(count, keys=("R", "z", "E", "F"), seed=0):
    rng = np.random.default_rng(seed)
    values = (
        rng.normal(size=(count, 3, 3)),
        np.array([8, 1, 1], dtype=np.uint8),
        rng.normal(size=(count, 1)),
        rng.normal(size=(count, 3, 3)),
    )
    content = io.BytesIO()
    np.savez(content, **dict(zip(keys, values, strict=True)))
    return content.getvalue()


def xyz(count, seed=0, names=None):
    rng = np.random.default_rng(seed)
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
    text = io.StringIO()
    ase.io.write(text, structures, format="extxyz")
    return text.getvalue().encode()


def zipped(members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return content.getvalue()


def tarred(members, mode):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, value in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(value)
            archive.addfile(info, io.BytesIO(value))
    return content.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Where downloads are put by hand."""
    return tmp_path / "data"


def put(folder, source, content):
    folder.mkdir(exist_ok=True)
    (folder / source.file).write_bytes(content)


def sizes(data):
    for stage in ("fit", "test"):
        data.setup(stage)
    return {part: [len(d) for d in data.datasets[part]] for part in ("train", "val", "test")}


def common(folder):
    return {"data_source_dir": str(folder), "transforms": [], "seed": 7}


@pytest.mark.parametrize(
    ("subset", "split", "expected"),
    [
        (None, [8, 2], {"train": [8], "val": [2], "test": [6]}),
        ([5, 4], [0.8, 0.2], {"train": [4], "val": [1], "test": [4]}),
    ],
)
def test_sgdml_has_a_training_and_a_test_file(folder, subset, split, expected):
    files = {"x/benzene_ccsd_t-train.npz": npz(10), "x/benzene_ccsd_t-test.npz": npz(6)}
    put(folder, benchmark_npz.SGDML_SOURCES["benzene"], zipped(files))
    data = sGDML_CCSD_DataModule(
        dataset="benzene", train_val_split=split, trainval_test_subset=subset, **common(folder)
    )
    assert sizes(data) == expected
    assert data.units == {"energy": "kcal/mol", "length": "Angstrom"}
    if subset is not None:
        order = torch.randperm(6, generator=torch.Generator().manual_seed(7)).tolist()
        assert data.datasets["test"][0].indices == order[:4]


def test_rmd17_is_unpacked_twice_and_converted(folder):
    keys = ("coords", "nuclear_charges", "energies", "forces")
    inner = tarred({"rmd17/npz_data/rmd17_ethanol.npz": npz(10, keys)}, "w:bz2")
    put(folder, benchmark_npz.RMD17_SOURCE, zipped({"rmd17.tar.bz2": inner}))
    data = rMD17DataModule(
        dataset="ethanol", train_val_test_split=[4, 3, 1], subset_len=8, **common(folder)
    )
    assert sizes(data) == {"train": [4], "val": [3], "test": [1]}
    assert data.units["energy"] == "eV"
    file = np.load(io.BytesIO(npz(10, keys)))
    whole = data.datasets["train"][0].dataset
    frame = whole[2]
    energy, forces = file["energies"][whole.indices[2]], file["forces"][whole.indices[2]]
    np.testing.assert_allclose(frame["total_energy"][0], energy * 0.0433641, rtol=1e-15)
    np.testing.assert_allclose(frame["forces"], forces * 0.0433641, rtol=1e-15)
    np.testing.assert_array_equal(frame["pos"], file["coords"][whole.indices[2]])


def test_md22_trains_on_the_first_frames_of_a_permutation(folder, monkeypatch):
    file = benchmark_npz.MD22_SYSTEMS["dha"][0]
    monkeypatch.setitem(benchmark_npz.MD22_SYSTEMS, "dha", (file, 6, 10))
    folder.mkdir()
    (folder / file).write_bytes(npz(10))
    data = MD22DataModule(dataset="dha", train_val_split=[4, 2], **common(folder))
    assert sizes(data) == {"train": [4], "val": [2], "test": [4]}
    order = torch.randperm(10, generator=torch.Generator().manual_seed(7)).tolist()
    assert data.datasets["test"][0].indices == order[6:]
    assert data.datasets["train"][0].dataset.indices == order[:6]


@pytest.mark.parametrize("train_set", ["300K", "mixedT"])
def test_3bpa_has_two_training_sets_and_six_tests(folder, train_set):
    names = [f"train_{train_set}", *(f"test_{name}" for name in benchmark_xyz.THREEBPA_TESTS)]
    content = {f"dataset_3BPA/{name}.xyz": xyz(i + 5) for i, name in enumerate(names)}
    put(folder, benchmark_xyz.THREEBPA_SOURCE, tarred(content, "w:gz"))
    data = NequIP3BPADataModule(train_val_split=[4, 1], train_set=train_set, **common(folder))
    assert sizes(data) == {"train": [4], "val": [1], "test": [6, 7, 8, 9, 10, 11]}
    fewer = NequIP3BPADataModule(train_val_split=[4, 1], test_sets=["1200K"], **common(folder))
    assert fewer.files == ["dataset_3BPA/train_300K.xyz", "dataset_3BPA/test_1200K.xyz"]


def test_tm23_is_of_one_element(folder):
    name = "benchmarking_master_collection/Cu_2700cwm_{}.xyz"
    content = zipped({name.format("train"): xyz(5), name.format("test"): xyz(3)})
    put(folder, benchmark_xyz.TM23_SOURCE, content)
    data = TM23DataModule(element="Cu", train_val_split=[0.8, 0.2], **common(folder))
    assert sizes(data) == {"train": [4], "val": [1], "test": [3]}
    assert len(benchmark_xyz.TM23_ELEMENTS) == 27


@pytest.mark.parametrize("include_ood", [True, False])
def test_samd23_has_the_split_of_its_authors(folder, include_ood):
    names = ("Trainset", "Validset", "Testset", "OOD")
    content = {f"SiN/{name}.xyz": xyz(i + 2) for i, name in enumerate(names)}
    put(folder, benchmark_xyz.SAMD23_SOURCES["SiN"], tarred(content, "w"))
    data = SAMD23DataModule(system="SiN", include_ood=include_ood, **common(folder))
    assert sizes(data) == {"train": [2], "val": [3], "test": [4, 5] if include_ood else [4]}


def test_water_has_labels_under_names_of_its_own(folder):
    put(folder, benchmark_xyz.WATER_SOURCE, xyz(6, names=("TotEnergy", "force")))
    data = WaterDataModule(train_val_test_split=[3, 2, 1], **common(folder))
    assert sizes(data) == {"train": [3], "val": [2], "test": [1]}
    frame = data.datasets["train"][0][0]
    assert frame["total_energy"].shape == (1, 1) and frame["forces"].shape == (3, 3)


def test_coll_has_the_split_of_its_authors(folder):
    names = ("train", "val", "test")
    parts = {f"coll_v1.2_AE_{name}.xyz": xyz(i + 2) for i, name in enumerate(names)}
    put(folder, benchmark_xyz.COLL_SOURCE, zipped(parts))
    data = COLLDataModule(**common(folder))
    assert sizes(data) == {"train": [2], "val": [3], "test": [4]}


def test_they_are_built_by_config_and_give_batches_and_statistics(folder):
    put(folder, benchmark_xyz.WATER_SOURCE, xyz(6, names=("TotEnergy", "force")))
    config = {
        TARGET: "nequip.data.datamodule.WaterDataModule",
        "seed": 1,
        "data_source_dir": str(folder),
        "train_val_test_split": [3, 2, 1],
        "train_dataloader": {"batch_size": 2},
        "transforms": [
            {
                TARGET: "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
                "model_type_names": ["H", "O"],
            },
            {TARGET: "nequip.data.transforms.NeighborListTransform", "r_max": 2.0},
        ],
        "stats_manager": {
            TARGET: "nequip.data.CommonDataStatisticsManager",
            "type_names": ["H", "O"],
        },
    }
    data = build(config, "data")
    assert data.get_statistics()["num_neighbors_mean"] == 2.0
    assert [len(batch["num_atoms"]) for batch in data.train_dataloader()] == [2, 1]


ARGUMENTS = {
    "sGDML_CCSD_DataModule": {"dataset": "toluene", "train_val_split": [1, 1]},
    "rMD17DataModule": {"dataset": "uracil", "train_val_test_split": [1, 1, 1]},
    "MD22DataModule": {"dataset": "dha", "train_val_split": [1, 1]},
    "NequIP3BPADataModule": {"train_val_split": [1, 1]},
    "TM23DataModule": {"element": "Zr", "train_val_split": [1, 1]},
    "SAMD23DataModule": {},
    "WaterDataModule": {"train_val_test_split": [1, 1, 1]},
    "COLLDataModule": {},
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_without_a_network_each_tells_what_to_download_and_where_to_put_it(
    folder, name, monkeypatch
):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", unreachable)
    assert len(MODULES) == len(ARGUMENTS)
    config = {TARGET: f"nequip.data.datamodule.{name}", **common(folder), **ARGUMENTS[name]}
    data = build(config, "data")
    assert canonical_name(config[TARGET]) == f"{type(data).__module__}.{name}"
    with pytest.raises(MissingFileError) as caught:
        data.setup("fit")
    source = data.source
    assert source.url.startswith("https://")
    assert f"download {source.url} by hand, put it at '{folder / source.file}'" in str(caught.value)
    assert [p.name for p in Path(folder).iterdir() if "lock" not in p.name] == []


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sGDML_CCSD_DataModule", {"dataset": "tolune"}, "dataset: 'tolune' .* mean 'toluene'"),
        ("sGDML_CCSD_DataModule", {"trainval_test_subset": [3]}, "2 sizes of trainval and test"),
        ("rMD17DataModule", {"dataset": "water"}, "dataset: 'water' is not one of aspirin, azo"),
        ("rMD17DataModule", {"train_val_test_split": [1, 1]}, "3 sizes of train and val and test"),
        ("MD22DataModule", {"dataset": "DHA"}, "dataset: 'DHA' is not one of"),
        ("NequIP3BPADataModule", {"train_set": "600K"}, "train_set: '600K' is not one of 300K"),
        ("NequIP3BPADataModule", {"test_sets": ["900K"]}, "test_sets: '900K' is not one of"),
        ("TM23DataModule", {"element": "Al"}, "element: 'Al' is not one of Ag, Au"),
        ("SAMD23DataModule", {"system": "SiO"}, "system: 'SiO' is not one of HfO, SiN"),
    ],
)  # fmt: skip
def test_names_and_sizes_that_do_not_fit_are_refused(folder, name, changes, message):
    config = {TARGET: f"nequip.data.datamodule.{name}", **common(folder), **ARGUMENTS[name]}
    with pytest.raises(ConfigError, match=message):
        build({**config, **changes}, "data")
