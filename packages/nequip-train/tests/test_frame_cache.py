"""Frames on disk: equal to those made anew, made once, and never of other data or code."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import lmdb
import numpy as np
import pytest
import torch
from ase.build import molecule

from nequip_core.errors import DataError, MissingFileError, UnknownSpeciesError
from nequip_core.fields import register_fields
from nequip_core.neighbors import backends
from nequip_core.transforms import NeighborListTransform
from nequip_train.command import main
from nequip_train.construction import build
from nequip_train.data.ase_datamodule import ASEDataModule
from nequip_train.data.datasets import ASEDataset
from nequip_train.data.frame_cache import kept
from nequip_train.data.frame_folder import cache_folder, entries, prune
from nequip_train.data.frame_store import StoredFrames
from nequip_train.data.lmdb_dataset import NequIPLMDBDataset
from nequip_train.data.lmdb_files import open_lmdb
from nequip_train.data.packed_frames import PackedFrames, packed, unpacked

DATASET = {
    "_target_": "nequip.data.dataset.ASEDataset",
    "file_path": "data.xyz",
    "transforms": [
        {
            "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
            "model_type_names": ["Al", "Cu"],
        },
        {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": 3.0},
    ],
}


def provided(config=DATASET):
    return kept(build(config, "data"), config)


def changed(**values):
    return {**copy.deepcopy(DATASET), **values}


def assert_equal(frame, other):
    assert frame.keys() == other.keys()
    for key, value in frame.items():
        assert value.dtype == other[key].dtype, key
        assert value.shape == other[key].shape, key
        # Bit for bit; NaN is equal to itself here.
        a, b = (np.asarray(tensor).tobytes() for tensor in (value, other[key]))
        assert a == b, key


@pytest.fixture
def lists(monkeypatch):
    """The list to which every neighbor list adds an entry."""
    made = []
    original = NeighborListTransform.forward

    def counted(self, data):
        made.append(1)
        return original(self, data)

    monkeypatch.setattr(NeighborListTransform, "forward", counted)
    return made


def test_making_neighbor_lists_shows_how_far_it_is_on_a_terminal(workplace, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    provided()
    progress = sys.stderr.getvalue()
    for part in ("frames of 'data.xyz'", "12/12", "atoms/s", "edges/s"):
        assert part in progress


def test_kept_frames_are_those_made_anew_bit_for_bit(workplace):
    dataset = build(DATASET, "data")
    frames = kept(dataset, DATASET)
    assert isinstance(frames, StoredFrames)
    assert len(frames) == 12
    for index in range(12):
        assert_equal(frames[index], dataset[index])
    assert frames.num_atoms([3, 0]) == dataset.num_atoms([3, 0])
    assert frames.num_edges([3, 0]) == [dataset[i]["edge_index"].shape[1] for i in (3, 0)]
    assert str(frames) == "'data.xyz'"
    assert frames.files() == ["data.xyz"]


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([[-1.5, torch.nan]], dtype=torch.float64),
        torch.tensor([[-0.0, 0.0, 2.0]], dtype=torch.float64),
        torch.tensor([[300.0, 0.0, 0.0]], dtype=torch.float64),
        torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64),
        torch.tensor([2**40, -1]),
        torch.tensor([127, -128]),
        torch.tensor([128, 32767]),
        torch.zeros((2, 0), dtype=torch.int64),
        torch.zeros((0, 3), dtype=torch.float64),
        torch.tensor([[True, False]]),
        torch.ones(3, dtype=torch.float32),
        torch.arange(6).reshape(2, 3).T,
    ],
)
@pytest.mark.parametrize("key", ["edge_cell_shift", "edge_index"])
def test_a_record_gives_back_every_value_and_dtype(key, values):
    assert_equal(unpacked(packed({key: values})), {key: values})


def test_whole_numbers_are_stored_narrowly():
    wide = {
        "edge_index": torch.arange(1000).repeat(2, 10),
        "edge_cell_shift": torch.zeros(10000, 3),
    }
    wide["edge_cell_shift"] = wide["edge_cell_shift"].double()
    size = sum(value.nbytes for value in wide.values())
    assert len(packed(wide)) < size / 5


def test_packed_frames_are_a_sequence(workplace):
    frames = PackedFrames({"n": torch.tensor([index])} for index in range(5))
    assert len(frames) == 5
    assert [int(frame["n"]) for frame in frames] == [0, 1, 2, 3, 4]
    assert int(frames[-1]["n"]) == 4
    assert [int(frame["n"]) for frame in frames[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        frames[5]


def test_a_second_run_makes_no_list_and_does_not_parse_the_file(
    workplace, lists, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    config = {"seed": 1, "split_dataset": {"file_path": "data.xyz", "train": 6, "val": 6}}
    config["transforms"] = DATASET["transforms"]
    first = ASEDataModule(**copy.deepcopy(config))
    first.setup("fit")
    assert len(lists) == 12
    monkeypatch.setattr("ase.io.iread", None)
    second = ASEDataModule(**copy.deepcopy(config))
    second.setup("fit")
    assert len(lists) == 12
    assert "frames of 'data.xyz': from" in caplog.text
    for part in ("train", "val"):
        for frame, other in zip(first.datasets[part][0], second.datasets[part][0], strict=False):
            assert_equal(frame, other)


def test_what_frames_follow_from_is_what_they_are_kept_by(workplace, frame_cache):
    provided()
    transforms = copy.deepcopy(DATASET["transforms"])
    transforms[1]["r_max"] = 2.9
    provided(changed(transforms=transforms))
    provided(changed(exclude_keys=["stress"]))
    assert len(entries(frame_cache)) == 3
    # Where the file lies does not matter, a byte of it does.
    (workplace / "moved.xyz").write_bytes((workplace / "data.xyz").read_bytes())
    provided(changed(file_path="moved.xyz"))
    assert len(entries(frame_cache)) == 3
    text = (workplace / "data.xyz").read_text()
    (workplace / "data.xyz").write_text(text.replace("energy=", "energy=1", 1))
    provided()
    assert len(entries(frame_cache)) == 4


@pytest.mark.parametrize("name", ["code_digests", "library_versions"])
def test_the_code_and_the_libraries_are_part_of_the_key(name, workplace, frame_cache, monkeypatch):
    provided()
    monkeypatch.setattr(f"nequip_train.data.frame_cache.{name}", lambda: {"other": "code"})
    provided()
    assert len(entries(frame_cache)) == 2


def test_a_new_field_is_part_of_the_key(workplace, frame_cache):
    from nequip_core.fields import deregister_fields

    provided()
    register_fields(node_fields=["hirshfeld"])
    try:
        provided()
    finally:
        deregister_fields("hirshfeld")
    assert len(entries(frame_cache)) == 2


class OwnTransform:
    def __call__(self, data):
        return data


@pytest.mark.parametrize(
    "transform",
    [
        {"_target_": f"{__name__}.OwnTransform"},
        {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": 3.0, "backend": "my"},
    ],
)
def test_what_others_code_makes_is_not_kept(transform, workplace, frame_cache, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[OwnTransform.__module__])
    options = backends.NEIGHBORLIST_BACKEND_OPTIONS
    monkeypatch.setitem(options, "my", options["vesin"])
    config = changed(transforms=[*DATASET["transforms"], transform])
    assert isinstance(provided(config), ASEDataset)
    assert not entries(frame_cache)
    assert "are not kept: what " in caplog.text


def test_a_frame_that_a_transform_refuses_is_met_where_it_is_used(workplace, frame_cache):
    ase.io.write("data.xyz", [*ase.io.read("data.xyz", ":2"), molecule("H2O")])
    dataset = provided()
    assert len(dataset[:2]) == 2
    with pytest.raises(UnknownSpeciesError, match=r"frame 2 of 'data.xyz': species H, O "):
        dataset[2]
    assert not entries(frame_cache)


def test_a_file_that_cannot_be_read_is_told_with_its_place_in_the_config(workplace, frame_cache):
    (workplace / "broken.xyz").write_text("3\nProperties=species:S:1:pos:R:3\nH 0 0\n")
    module = ASEDataModule(seed=1, train_file_path="broken.xyz", val_file_path="data.xyz")
    message = r"data.train_dataset\[0\]: ASE cannot read 'broken.xyz'"
    with pytest.raises(DataError, match=message):
        module.setup("fit")
    assert [path for path in frame_cache.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_a_damaged_entry_is_made_anew(damage, workplace, frame_cache, lists, caplog):
    expected = provided()[3]
    ((path, *_),) = entries(frame_cache)
    if damage == "other":
        environment = lmdb.open(str(path), subdir=False, lock=False)
        with environment.begin(write=True) as transaction:
            transaction.put(b"about", json.dumps({"format": 999, "frames": 12}).encode())
        environment.close()
    else:
        content = path.read_bytes()
        path.write_bytes({"cut": content[:-5000], "empty": b"", "text": b"text"}[damage])
    assert_equal(provided()[3], expected)
    assert len(lists) == 24
    assert "cannot be used and are made anew" in caplog.text


def test_an_entry_holds_no_pickle_and_states_its_key(workplace, frame_cache):
    provided()
    ((path, *_),) = entries(frame_cache)
    with open_lmdb(str(path)) as transaction:
        about = json.loads(bytes(transaction.get(b"about")))
        record = bytes(transaction.get((0).to_bytes(8, "big")))
    assert about["name"] == "'data.xyz'"
    assert about["key"]["dataset"]["transforms"][1]["r_max"] == 3.0
    # Length of a header, then JSON: safetensors.
    assert json.loads(record[8 : 8 + int.from_bytes(record[:8], "little")])


@pytest.mark.parametrize("value", ["off", "OFF", "0", "no", ""])
def test_the_variable_switches_it_off(value, workplace, frame_cache, monkeypatch):
    monkeypatch.setenv("NEQUIP_FRAME_CACHE", value)
    assert cache_folder() is None
    assert isinstance(provided(), ASEDataset)
    assert not list(frame_cache.iterdir())


def test_the_default_is_in_the_cache_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("NEQUIP_FRAME_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "nequip" / "frames"


def test_a_place_that_cannot_be_written_to_is_only_warned_of(workplace, monkeypatch, caplog):
    (workplace / "file").write_text("")
    monkeypatch.setenv("NEQUIP_FRAME_CACHE", str(workplace / "file" / "cache"))
    assert len(provided()) == 12
    assert "NEQUIP_FRAME_CACHE" in caplog.text


def test_a_nearly_full_disk_is_left_alone(workplace, frame_cache, monkeypatch, caplog):
    monkeypatch.setattr("nequip_train.data.frame_store._LEFT_FREE", 1 << 60)
    assert isinstance(provided(), ASEDataset)
    assert not entries(frame_cache)
    assert "are free on the disk" in caplog.text


def test_a_set_that_has_its_lists_already_is_not_kept_again(workplace, frame_cache):
    NequIPLMDBDataset.save_from_iterator("data.lmdb", build(DATASET, "data")[:])
    config = {"_target_": "nequip.data.dataset.NequIPLMDBDataset", "file_path": "data.lmdb"}
    assert isinstance(provided(config), NequIPLMDBDataset)
    config["transforms"] = DATASET["transforms"][1:]
    assert isinstance(provided(config), StoredFrames)
    assert len(entries(frame_cache)) == 1


def test_what_was_not_used_for_long_goes(workplace, frame_cache):
    provided()
    ((old, *_),) = entries(frame_cache)
    os.utime(old, (time.time() - 40 * 86400.0,) * 2)
    provided(changed(exclude_keys=["stress"]))
    ((path, _, size),) = entries(frame_cache)
    assert path != old
    assert prune(frame_cache, unused_days=1.0) == (0, 0)
    assert prune(frame_cache, largest_total=size - 1) == (1, size)
    assert not list(frame_cache.iterdir())


def test_an_entry_that_is_used_stays(workplace, frame_cache):
    provided()
    ((path, *_),) = entries(frame_cache)
    os.utime(path, (time.time() - 40 * 86400.0,) * 2)
    provided()
    assert prune(frame_cache, unused_days=30.0) == (0, 0)


def test_the_command_lists_and_removes(workplace, frame_cache, capsys):
    provided()
    provided(changed(exclude_keys=["stress"]))
    assert main(["cache", "list"]) == 0
    listing = capsys.readouterr().out
    assert f"{frame_cache}: 2 sets of frames" in listing
    assert listing.count("12 frames of 'data.xyz'") == 2
    assert main(["cache", "prune", "--older-than", "1"]) == 0
    assert "removed 0 sets" in capsys.readouterr().out
    assert main(["cache", "prune", "--larger-than", "1K"]) == 0
    assert "removed 2 sets of frames" in capsys.readouterr().out
    provided()
    ((path, *_),) = entries(frame_cache)
    path.write_bytes(b"")
    assert main(["cache", "list"]) == 0
    assert "damaged" in capsys.readouterr().out
    assert main(["cache", "prune", "--all"]) == 0
    assert not list(frame_cache.iterdir())
    with pytest.raises(SystemExit) as usage:
        main(["cache", "prune", "--older-than", "soon"])
    assert usage.value.code == 2


SCRIPT = """
import sys, time
from nequip_train.construction import build
from nequip_train.data import frame_cache
original = frame_cache.write_frames
def slow(*arguments):
    print("wrote", flush=True)
    time.sleep(1.0)
    original(*arguments)
frame_cache.write_frames = slow
config = {"_target_": "nequip.data.dataset.ASEDataset", "file_path": "data.xyz"}
print(len(frame_cache.kept(build(config, "data"), config)))
"""


def test_of_several_processes_one_writes_and_the_others_wait(workplace, frame_cache):
    command = [sys.executable, "-c", SCRIPT]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in started]
    assert sorted(outputs) == ["12\n", "wrote\n12\n"]
    assert len(entries(frame_cache)) == 1


def test_an_entry_that_is_removed_while_it_is_used_is_named(workplace, frame_cache):
    frames = provided()
    ((path, *_),) = entries(frame_cache)
    path.unlink()
    with pytest.raises(MissingFileError, match=f"'{path}': the file does not exist"):
        frames[0]


def test_reading_needs_no_lock_and_leaves_nothing_open(workplace, frame_cache):
    frames = provided()
    before = len(list(Path("/proc/self/fd").iterdir()))
    frames[:]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert frame_cache.name
