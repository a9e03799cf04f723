"""Data sets in LMDB files."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch

from nequip_core.errors import ConfigError, DataError, MissingFileError
from nequip_core.frames import batched_from_list
from nequip_core.transforms import NeighborListTransform
from nequip_train.data.datamodules import NequIPDataModule, collate
from nequip_train.data.datasets import EMTTestDataset
from nequip_train.data.lmdb_dataset import LMDBTestDataset, NequIPLMDBDataset
from nequip_train.data.lmdb_files import LMDBMetadataSpec
from nequip_train.data.subsets import SubsetByRandomSlice

SMALL = {"supercell": (1, 1, 1), "num_frames": 7}


@pytest.fixture(scope="module")
def frames():
    return EMTTestDataset(**SMALL)[:]


@pytest.fixture
def path(tmp_path, frames):
    NequIPLMDBDataset.save_from_iterator(str(tmp_path / "data.lmdb"), iter(frames))
    return str(tmp_path / "data.lmdb")


def same(ours, theirs):
    assert list(ours) == list(theirs)
    for key in theirs:
        assert ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]), key


def put(path, entries):
    with (
        lmdb.open(path, subdir=False, map_size=2**24) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in entries.items():
            transaction.put(key, value)


def listed(folder):
    return [entry.name for entry in folder.iterdir()]


def test_frames_come_back_as_they_were_written(path, frames):
    dataset = NequIPLMDBDataset(path)
    assert len(dataset) == 7
    for index in (0, 6, -1, torch.tensor(3)):
        same(dataset[index], frames[int(index)])
    for frame, written in zip(dataset[1:4], frames[1:4], strict=True):
        same(frame, written)
    for frame, written in zip(dataset[np.array([5, 2])], (frames[5], frames[2]), strict=True):
        same(frame, written)


@pytest.mark.parametrize("index", [7, -8])
def test_a_frame_that_is_not_there_is_named(path, index):
    with pytest.raises(IndexError, match=rf"frame {index} of '.*data.lmdb', which has 7 frames"):
        NequIPLMDBDataset(path)[index]


def test_metadata_count_atoms_and_edges(tmp_path, frames):
    neighbors = NeighborListTransform(r_max=3.0)
    path = str(tmp_path / "edges.lmdb")
    written = [neighbors(dict(frame)) for frame in frames]
    NequIPLMDBDataset.save_from_iterator(
        path,
        written,
        extra_metadata=[
            LMDBMetadataSpec("energy", lambda f: f["total_energy"].item(), lambda a, b: a + b, 0.0),
            LMDBMetadataSpec("first", lambda f: [f["pos"][0, 0].item()], lambda a, b: a + b, []),
        ],
    )
    dataset = NequIPLMDBDataset(path)
    edges = [frame["edge_index"].shape[1] for frame in written]
    assert dataset.get_metadata("num_edges_per_entry").tolist() == edges
    assert dataset.get_metadata("num_edges_per_entry", 2) == edges[2]
    assert dataset.get_metadata("num_edges_per_entry", [0, 6]) == [edges[0], edges[6]]
    assert dataset.get_metadata("num_atoms_per_entry").tolist() == [2] * 7
    assert dataset.get_metadata("num_frames") == 7
    assert dataset.get_metadata("energy") == sum(f["total_energy"].item() for f in frames)
    assert dataset.get_metadata("first").tolist() == [f["pos"][0, 0].item() for f in frames]
    assert dataset.get_metadata("unknown") is None
    assert dataset.num_atoms([0, 3]) == [2, 2]
    with pytest.raises(IndexError, match="frame 7"):
        dataset.get_metadata("num_atoms_per_entry", 7)
    same(dataset[3], written[3])


def test_frames_without_neighbor_lists_have_none_as_number_of_edges(path):
    assert NequIPLMDBDataset(path).get_metadata("num_edges_per_entry").tolist() == [None] * 7


def test_files_without_metadata_are_read(tmp_path, frames):
    path = str(tmp_path / "old.lmdb")
    put(path, {str(i).encode(): pickle.dumps(frame, 2) for i, frame in enumerate(frames)})
    dataset = NequIPLMDBDataset(path)
    assert len(dataset) == 7 and dataset.get_metadata("num_frames") is None
    assert dataset.num_atoms([1]) == [2]
    same(dataset[6], frames[6])


def test_numbers_of_lower_precision_and_arrays_become_frames(tmp_path):
    path = str(tmp_path / "arrays.lmdb")
    records = [
        {"pos": np.ones((2, 3), dtype=np.float32), "atomic_numbers": [1, 8], "total_energy": -1.5},
        {"pos": torch.ones(2, 3), "atomic_numbers": torch.tensor([1, 8])},
    ]
    put(path, {str(i).encode(): pickle.dumps(record) for i, record in enumerate(records)})
    first, second = NequIPLMDBDataset(path)[:]
    assert first["pos"].dtype == second["pos"].dtype == torch.float64
    assert first["total_energy"].tolist() == [[-1.5]]
    assert first["atomic_numbers"].tolist() == [1, 8]


def test_fields_are_left_out_and_transforms_run_at_every_access(path, frames):
    def marked(frame):
        return {**frame, "mark": frame["pos"] + 1}

    dataset = NequIPLMDBDataset(path, [marked], exclude_keys=["forces", "unknown"])
    for _ in range(2):
        assert list(dataset[2]) == [k for k in frames[2] if k != "forces"] + ["mark"]


def test_a_batch_is_written_as_its_frames(tmp_path, frames):
    path = str(tmp_path / "batches.lmdb")
    NequIPLMDBDataset.save_from_iterator(path, [batched_from_list(frames[:5]), *frames[5:]])
    dataset = NequIPLMDBDataset(path)
    assert len(dataset) == 7
    for index in range(7):
        for key in frames[index]:
            assert torch.equal(dataset[index][key], frames[index][key])


def test_a_view_is_written_without_what_it_does_not_show(tmp_path):
    large = torch.rand(10**6, 3)
    path = tmp_path / "views.lmdb"
    NequIPLMDBDataset.save_from_iterator(str(path), [{"pos": large[i : i + 2]} for i in range(3)])
    assert path.stat().st_size < 10**5
    assert torch.equal(NequIPLMDBDataset(str(path))[2]["pos"], large[2:4].double())


@pytest.mark.parametrize("write_frequency", [1, 3, 100])
def test_a_map_that_is_too_small_grows(tmp_path, frames, write_frequency):
    path = tmp_path / "grown.lmdb"
    NequIPLMDBDataset.save_from_iterator(str(path), frames * 40, 2**15, write_frequency)
    dataset = NequIPLMDBDataset(str(path))
    assert len(dataset) == 280
    same(dataset[279], frames[6])
    assert listed(tmp_path) == ["grown.lmdb"]


def interrupted(frames, error):
    yield from frames[:3]
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_what_was_there(tmp_path, path, frames, error):
    before = Path(path).read_bytes()
    with pytest.raises(error):
        NequIPLMDBDataset.save_from_iterator(path, interrupted(frames, error("stop")))
    with pytest.raises(error):
        NequIPLMDBDataset.save_from_iterator(
            str(tmp_path / "new.lmdb"), interrupted(frames, error("stop")), write_frequency=1
        )
    assert Path(path).read_bytes() == before
    assert listed(tmp_path) == ["data.lmdb"]


def test_a_file_that_is_there_is_replaced(path, frames):
    reading = NequIPLMDBDataset(path)
    NequIPLMDBDataset.save_from_iterator(path, frames[4:6])
    dataset = NequIPLMDBDataset(path)
    assert len(dataset) == 2
    same(dataset[0], frames[4])
    with pytest.raises(DataError, match=r"frame 3 of '.*' is missing"):
        reading[3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "there are no frames to write"),
        ([{"pos": torch.ones(1, 3)}, 3], "frame 1 for '.*' must be a dictionary .*, got int"),
        ([{"cell": torch.ones(3, 3)}], r"with 'pos', got \['cell'\]"),
        ([{"pos": np.ones((1, 3))}], "'pos' must be a tensor, got ndarray; from_dict"),
        (
            [{"pos": torch.ones(2, 3), "num_atoms": torch.tensor([1, 1]), "x": torch.ones(2),
              "batch": torch.tensor([0, 1])}],
            "frame 0 for '.*': the batch cannot be split: .*x",
        ),
    ],
)  # fmt: skip
def test_what_is_no_frame_is_not_written(tmp_path, given, message):
    with pytest.raises(DataError, match=message):
        NequIPLMDBDataset.save_from_iterator(str(tmp_path / "x.lmdb"), given)
    assert listed(tmp_path) == []


def test_arguments_of_writing_are_checked(tmp_path, frames):
    spec = LMDBMetadataSpec("num_frames", len, max, 0)
    with pytest.raises(ConfigError, match="entry 'num_frames' already"):
        NequIPLMDBDataset.save_from_iterator(f"{tmp_path}/x", frames, extra_metadata=[spec])
    with pytest.raises(ConfigError, match="must be at least 1, got 0 and"):
        NequIPLMDBDataset.save_from_iterator(f"{tmp_path}/x", frames, write_frequency=0)


@pytest.mark.parametrize("content", [b"", b"no LMDB at all " * 3000])
def test_a_file_of_another_kind_is_named(tmp_path, content):
    (tmp_path / "x.lmdb").write_bytes(content)
    with pytest.raises(DataError, match=r"x.lmdb' cannot be read as LMDB"):
        NequIPLMDBDataset(str(tmp_path / "x.lmdb"))


def test_an_incomplete_file_is_refused_before_a_page_is_missed(path):
    size = Path(path).stat().st_size
    os.truncate(path, size - 4096)
    with pytest.raises(DataError, match=f"is incomplete: it has {size - 4096} bytes of {size}"):
        NequIPLMDBDataset(path)


def test_missing_files_and_folders_are_told(tmp_path):
    with pytest.raises(MissingFileError, match="no LMDB file at"):
        NequIPLMDBDataset(str(tmp_path / "x.lmdb"))
    with pytest.raises(MissingFileError, match="this is a folder"):
        NequIPLMDBDataset(str(tmp_path))
    lmdb.open(str(tmp_path / "folder")).close()
    with pytest.raises(MissingFileError, match=r"give '.*folder/data.mdb'"):
        NequIPLMDBDataset(str(tmp_path / "folder"))


def test_other_contents_of_lmdb_files_are_told(tmp_path):
    cases = {
        "empty": ({}, "holds no frames"),
        "other": ({b"image": b"x"}, "not of frames: it has no entry '0' among its 1 entries"),
        "metadata": ({b"__metadata__": pickle.dumps([1])}, "is no dictionary"),
        "list": ({b"0": pickle.dumps([1])}, "frame 0 of '.*': expected a dictionary .* found list"),
        "keys": ({b"0": pickle.dumps({"cell": 1})}, r"with 'pos', found \['cell'\]"),
        "code": ({b"0": pickle.dumps({"pos": os.system})}, "frame 0 of '.*' asks for '.*system'"),
        "shape": ({b"0": pickle.dumps({"pos": np.ones((2, 2))})}, "frame 0 of '.*': 'pos' must"),
    }
    for name, (entries, message) in cases.items():
        path = str(tmp_path / name)
        put(path, entries)
        with pytest.raises(DataError, match=message):
            NequIPLMDBDataset(path)[0]


def test_several_data_sets_read_one_file_at_once(path, frames):
    first, second = NequIPLMDBDataset(path), NequIPLMDBDataset(path, exclude_keys=["forces"])
    same(first[2], frames[2])
    assert "forces" not in second[2]
    same(first[3], frames[3])


def test_it_pickles_small_and_reads_in_another_place(path, frames):
    dataset = NequIPLMDBDataset(path)
    dataset[0]
    content = pickle.dumps(dataset)
    assert len(content) < 2000
    same(pickle.loads(content)[5], frames[5])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_workers_read_the_file(path, frames, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    dataset = NequIPLMDBDataset(path)
    dataset[0]
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=2,
        num_workers=2 if method == "fork" else 1,
        collate_fn=collate,
        multiprocessing_context=method,
    )
    energies = torch.cat([batch["total_energy"] for batch in loader])
    assert torch.equal(energies, torch.cat([frame["total_energy"] for frame in frames]))
    same(dataset[1], frames[1])


def test_subsets_and_data_modules_take_it(path, frames):
    subset = SubsetByRandomSlice(NequIPLMDBDataset(path), 1, 3, seed=4)
    permutation = torch.randperm(7, generator=torch.Generator().manual_seed(4))
    same(subset[0], frames[permutation[1]])
    data = NequIPDataModule(
        seed=1,
        split_dataset={
            "dataset": {"_target_": "nequip_train.data.lmdb_dataset.NequIPLMDBDataset",
                        "file_path": path},
            "train": 5,
            "val": 2,
        },
    )  # fmt: skip
    data.setup("fit")
    assert [batch["pos"].shape for batch in data.train_dataloader()] == [(2, 3)] * 5
    assert data.datasets["train"][0].files() == [path]


def test_the_test_data_set_has_the_frames_of_emt(tmp_path, frames):
    path = str(tmp_path / "emt.lmdb")
    dataset = LMDBTestDataset(path, **SMALL)
    assert len(dataset) == 7 and dataset.energy_units == "eV"
    for index in range(7):
        same(dataset[index], frames[index])
    again = LMDBTestDataset(path, [NeighborListTransform(r_max=3.0)], num_frames=1)
    assert len(again) == 1 and "edge_index" in again[0]


def test_progress_is_shown_on_a_terminal_only(tmp_path, frames, monkeypatch, capsys):
    NequIPLMDBDataset.save_from_iterator(str(tmp_path / "quiet"), frames)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    NequIPLMDBDataset.save_from_iterator(str(tmp_path / "shown"), frames)
    shown = capsys.readouterr()
    assert shown.out == "" and "writing frames" in shown.err and "7/7" in shown.err
