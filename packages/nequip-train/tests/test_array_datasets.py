"""Data sets in npz and HDF5 files."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import torch

from nequip_core.errors import ConfigError, DataError, MissingFileError
from nequip_train.data.array_datasets import HDF5Dataset, NPZDataset
from nequip_train.data.datamodules import NequIPDataModule

NUMBERS = np.array([8, 1, 1])


def arrays(count, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "pos": generator.normal(size=(count, 3, 3)),
        "energy": generator.normal(size=count),
        "forces": generator.normal(size=(count, 3, 3)),
    }


@pytest.fixture
def npz(tmp_path):
    values = arrays(5)
    path = tmp_path / "data.npz"
    np.savez(path, R=values["pos"], z=NUMBERS, E=values["energy"][:, None], F=values["forces"])
    return str(path), values


@pytest.fixture
def hdf5(tmp_path):
    first, second = arrays(4, 1), arrays(3, 2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values in (("water", first), ("again", second)):
            group = file.create_group(name)
            for key, value in values.items():
                group[key] = value.astype(np.float32) if name == "again" else value
            group["atomic_numbers"] = NUMBERS if name == "again" else np.tile(NUMBERS, (4, 1))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        group = file.create_group("one")
        for key, value in arrays(1, 3).items():
            group[key] = value[:, :2] if value.ndim == 3 else value
        group["types"] = np.array([[0, 1]])
    return f"{tmp_path}/a.h5;{tmp_path}/b.h5", first, second


def test_an_npz_file_has_the_frames_that_were_written(npz):
    path, values = npz
    dataset = NPZDataset(path)
    assert len(dataset) == 5
    frame = dataset[-2]
    np.testing.assert_array_equal(frame["pos"], values["pos"][3])
    np.testing.assert_array_equal(frame["forces"], values["forces"][3])
    assert frame["total_energy"].tolist() == [[values["energy"][3]]]
    assert frame["atomic_numbers"].tolist() == [8, 1, 1]
    assert frame["pos"].dtype == torch.float64
    assert "cell" not in frame
    assert [float(f["total_energy"]) for f in dataset[1:3]] == values["energy"][1:3].tolist()
    assert dataset.num_atoms([0, 4]) == [3, 3]
    with pytest.raises(IndexError, match="which has 5 frames"):
        dataset[5]


def test_arrays_of_an_npz_file_are_mapped_by_name(tmp_path):
    values = arrays(2)
    path = tmp_path / "own.npz"
    cells = np.tile(np.eye(3) * 9, (2, 1, 1))
    np.savez(path, x=values["pos"], n=NUMBERS, e=values["energy"], c=cells, p=np.ones((2, 3), bool))
    names = {"x": "pos", "n": "atomic_numbers", "e": "total_energy", "c": "cell", "p": "pbc"}
    frame = NPZDataset(str(path), key_mapping=names)[1]
    assert frame["cell"].shape == (1, 3, 3)
    assert frame["pbc"].tolist() == [[True, True, True]]
    with pytest.raises(DataError, match=r"has no array 'R' \(it has x, n, e, c, p\)"):
        NPZDataset(str(path))
    with pytest.raises(ConfigError, match="'energy' is not a registered field"):
        NPZDataset(str(path), key_mapping={"x": "pos", "e": "energy"})
    with pytest.raises(ConfigError, match="needs one name mapped to 'total_energy'"):
        NPZDataset(str(path), key_mapping={"x": "pos"})


def test_an_npz_file_that_does_not_fit_is_refused(tmp_path):
    values = arrays(3)
    path = tmp_path / "bad.npz"
    np.savez(path, R=values["pos"][:2], z=NUMBERS, E=values["energy"])
    with pytest.raises(DataError, match=r"'pos' has shape \(2, 3, 3\), expected 3 frames"):
        NPZDataset(str(path))
    np.savez(path, R=values["pos"], z=NUMBERS[:2], E=values["energy"])
    with pytest.raises(DataError, match=r"frame 1 of .*atomic_numbers"):
        NPZDataset(str(path))[1]
    np.savez(path, R=values["pos"][:0], z=NUMBERS, E=values["energy"][:0])
    with pytest.raises(DataError, match="holds no frames"):
        NPZDataset(str(path))
    path.write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="cannot be read as npz"):
        NPZDataset(str(path))
    with pytest.raises(MissingFileError, match="no data file"):
        NPZDataset(str(tmp_path / "none.npz"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npz_file_is_read_frame_by_frame_unless_it_is_compressed(tmp_path, save, order):
    values = arrays(50)
    path = tmp_path / "data.npz"
    positions = np.asarray(values["pos"], dtype=np.float32, order=order)
    save(path, R=positions, z=NUMBERS, E=values["energy"], F=values["forces"])
    dataset = NPZDataset(str(path))
    mapped = {field: isinstance(array, np.memmap) for field, array in dataset.arrays.items()}
    assert set(mapped.values()) == {save is np.savez}
    frame = dataset[17]
    np.testing.assert_array_equal(frame["pos"], values["pos"][17].astype(np.float32))
    # A transform may change a frame in place: neither the file nor another frame is changed.
    for key in ("pos", "atomic_numbers"):
        frame[key] += 1
    assert dataset[17]["atomic_numbers"].tolist() == [8, 1, 1]
    np.testing.assert_array_equal(dataset[17]["pos"], values["pos"][17].astype(np.float32))
    # Another process opens the file itself: the arrays do not travel.
    record = pickle.dumps(dataset)
    assert len(record) < values["forces"].nbytes
    assert torch.equal(pickle.loads(record)[17]["forces"], dataset[17]["forces"])


def test_a_broken_npz_file_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    values = arrays(3)
    np.savez(path, R=values["pos"], z=NUMBERS, E=values["energy"])
    content = path.read_bytes()
    first = content.index(b"\x93NUMPY")
    path.write_bytes(content[:first] + b"NUMPY\x93" + content[first + 6 :])
    with pytest.raises(DataError, match="cannot be read as npz of plain arrays"):
        NPZDataset(str(path))


class Explosive:
    """Would raise if it were unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("an object was unpickled",))


def test_opening_an_npz_file_never_unpickles(tmp_path):
    path = tmp_path / "evil.npz"
    values = arrays(1)
    np.savez(path, R=values["pos"], z=np.array([Explosive()], dtype=object), E=values["energy"])
    with pytest.raises(DataError, match="plain arrays"):
        NPZDataset(str(path))


def test_groups_of_hdf5_files_follow_each_other(hdf5):
    files, first, second = hdf5
    dataset = HDF5Dataset(files)
    assert len(dataset) == 8
    np.testing.assert_allclose(dataset[0]["pos"], second["pos"][0], rtol=1e-6)
    assert dataset[0]["pos"].dtype == torch.float64
    for index in range(4):
        frame = dataset[3 + index]
        np.testing.assert_array_equal(frame["forces"], first["forces"][index])
        assert float(frame["total_energy"]) == first["energy"][index]
        assert frame["atomic_numbers"].tolist() == [8, 1, 1]
    assert dataset[7]["atom_types"].tolist() == [0, 1]
    assert dataset.num_atoms([0, 7]) == [3, 2]
    assert torch.equal(dataset[2:5][1]["pos"], dataset[3]["pos"])
    with pytest.raises(IndexError, match="which has 8 frames"):
        dataset[8]


def test_another_process_opens_an_hdf5_file_itself(hdf5):
    files, first, _ = hdf5
    dataset = HDF5Dataset(files)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._open == {}
    assert torch.equal(copy[4]["pos"], dataset[4]["pos"])
    loader = torch.utils.data.DataLoader(dataset, num_workers=1, collate_fn=lambda frames: frames)
    energies = [float(frames[0]["total_energy"]) for frames in loader]
    assert energies[3:7] == first["energy"].tolist()


def test_an_hdf5_file_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "bad.h5"
    with h5py.File(path, "w") as file:
        file.create_group("g")["coordinates"] = np.zeros((2, 3, 3))
    with pytest.raises(DataError, match=r"group 'g' .* \(found: coordinates\)"):
        HDF5Dataset(str(path))
    with h5py.File(path, "w") as file:
        group = file.create_group("g")
        group["pos"], group["energy"] = np.zeros((2, 3, 3)), np.zeros(3)
    with pytest.raises(DataError, match=r"'total_energy' has shape \(3,\), expected 2 frames"):
        HDF5Dataset(str(path))
    with h5py.File(path, "w"):
        pass
    with pytest.raises(DataError, match="holds no frames"):
        HDF5Dataset(str(path))
    path.write_text("no HDF5")
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        HDF5Dataset(str(path))
    with pytest.raises(MissingFileError, match="no data file"):
        HDF5Dataset("none.h5")


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_statistics_of_an_array_file_are_cached_by_its_content(kind, request, statistics_cache):
    path = request.getfixturevalue(kind)[0].split(";")[0]
    name = {"npz": "NPZDataset", "hdf5": "HDF5Dataset"}[kind]
    argument = {"npz": "file_path", "hdf5": "file_name"}[kind]
    entry = {
        "field": "forces",
        "metric": {"_target_": "nequip.data.RootMeanSquare"},
        "name": "rms",
    }
    data = NequIPDataModule(
        seed=1,
        train_dataset={"_target_": f"nequip.data.dataset.{name}", argument: path},
        train_dataloader={"batch_size": 2},
        stats_manager={"_target_": "nequip.data.DataStatisticsManager", "metrics": [entry]},
    )
    result = data.get_statistics()
    expected = torch.cat([frame["forces"] for frame in data.datasets["train"][0][:]])
    assert result["rms"] == pytest.approx(float(expected.square().mean().sqrt()), rel=1e-12)
    assert len(list(statistics_cache.glob("*.json"))) == 1
