"""LMDB files of frames: the reference reads what we write, and we read what it writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore")  # raised inside the reference

theirs = pytest.importorskip(
    "nequip.data.dataset.lmdb_dataset", reason="the parity session installs nequip"
)
ours = pytest.importorskip(
    "nequip_train.data.lmdb_dataset", reason="the parity session installs nequip-train"
)
from nequip.data import compute_neighborlist_  # noqa: E402
from nequip.data.dataset import EMTTestDataset  # noqa: E402
from nequip_train.data.lmdb_files import LMDBMetadataSpec  # noqa: E402

ARGUMENTS = {"supercell": (1, 1, 2), "num_frames": 5}


@pytest.fixture(autouse=True)
def float64():
    """The reference makes frames of the default dtype, which it sets to float64 in its commands."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def frames(with_edges):
    dataset = EMTTestDataset(**ARGUMENTS)
    made = [dataset[index] for index in range(len(dataset))]
    return [compute_neighborlist_(dict(frame), 4.0) for frame in made] if with_edges else made


def same(first, second):
    assert set(first) == set(second)
    for key in second:
        assert first[key].dtype == second[key].dtype, key
        assert first[key].shape == second[key].shape, key
        assert torch.equal(first[key], second[key]), key


def same_metadata(first, second, names):
    for name in names:
        mine, other = first.get_metadata(name), second.get_metadata(name)
        assert type(mine) is type(other)
        assert np.array_equal(mine, other), name
        if isinstance(other, np.ndarray):
            assert mine.dtype == other.dtype
            assert first.get_metadata(name, 1) == second.get_metadata(name, 1)
            assert first.get_metadata(name, [0, 2]) == second.get_metadata(name, [0, 2])


def extras(specification):
    return [
        specification("energy", lambda f: f["total_energy"].item(), lambda a, b: a + b, 0.0),
        specification("x", lambda f: [f["pos"][0, 0].item()], lambda a, b: a + b, []),
    ]


NAMES = ("num_atoms_per_entry", "num_edges_per_entry", "num_frames", "energy", "x", "unknown")


@pytest.mark.parametrize("with_edges", [False, True])
def test_files_go_both_ways(tmp_path, with_edges):
    written = frames(with_edges)
    paths = {who: str(tmp_path / who) for who in ("ours", "theirs")}
    ours.NequIPLMDBDataset.save_from_iterator(
        paths["ours"], iter(written), extra_metadata=extras(LMDBMetadataSpec)
    )
    theirs.NequIPLMDBDataset.save_from_iterator(
        paths["theirs"], iter(written), extra_metadata=extras(theirs.LMDBMetadataSpec)
    )
    # The reference keeps its file open, and LMDB opens a file once in a process.
    we_read = {who: ours.NequIPLMDBDataset(path)[:] for who, path in paths.items()}
    we_know = {who: ours.NequIPLMDBDataset(path) for who, path in paths.items()}
    for who, path in paths.items():
        they_read = theirs.NequIPLMDBDataset(path)
        assert len(they_read) == len(we_read[who]) == 5
        for index, frame in enumerate(written):
            same(we_read[who][index], frame)
            same(they_read[index], frame)
        same_metadata(we_know[who], they_read, NAMES)
        assert we_know[who].num_atoms([0, 1]) == they_read.num_atoms([0, 1])
        with pytest.raises(IndexError):
            they_read[5]


def test_fields_that_are_left_out_are_the_same(tmp_path):
    path = str(tmp_path / "data.lmdb")
    ours.NequIPLMDBDataset.save_from_iterator(path, frames(True))
    arguments = {"exclude_keys": ["forces", "edge_index", "unknown"]}
    mine = ours.NequIPLMDBDataset(path, **arguments)[3]
    same(mine, theirs.NequIPLMDBDataset(path, **arguments)[3])


def test_the_reference_s_own_batch_fields_are_read(tmp_path):
    from nequip.data import AtomicDataDict

    path = str(tmp_path / "batched.lmdb")
    written = [AtomicDataDict.with_batch_(dict(frame)) for frame in frames(False)]
    assert written[0]["batch"].numel() > written[0]["batch"].untyped_storage().nbytes() // 8
    theirs.NequIPLMDBDataset.save_from_iterator(path, iter(written))
    for frame, other in zip(ours.NequIPLMDBDataset(path)[:], written, strict=True):
        same(frame, other)
