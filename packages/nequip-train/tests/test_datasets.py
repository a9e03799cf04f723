"""Data sets of frames and their subsets."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule

from nequip_core.errors import ConfigError, DataError, MissingFileError, UnknownSpeciesError
from nequip_core.transforms import ChemicalSpeciesToAtomTypeMapper
from nequip_train.data.datasets import ASEDataset, EMTTestDataset, UnreadASEDataset
from nequip_train.data.subsets import RandomSplitAndIndexDataset, SubsetByRandomSlice


def test_frames_are_taken_by_integer_slice_list_array_and_mask(workplace):
    dataset = ASEDataset("data.xyz")
    assert len(dataset) == 12
    third = dataset[2]["pos"]
    assert torch.equal(dataset[torch.tensor(2)]["pos"], third)
    assert torch.equal(dataset[-10]["pos"], third)
    assert torch.equal(dataset[1:4][1]["pos"], third)
    assert torch.equal(dataset[[5, 2]][1]["pos"], third)
    assert torch.equal(dataset[np.array([2])][0]["pos"], third)
    assert torch.equal(dataset[np.arange(12) == 2][0]["pos"], third)
    assert dataset.num_atoms([0, 1]) == [4, 4]
    with pytest.raises(IndexError, match=r"frame 12 of 'data.xyz', which has 12 frames"):
        dataset[12]


def test_labels_are_those_of_the_file(workplace, alloy):
    frame = ASEDataset("data.xyz")[0]
    assert frame["total_energy"].dtype == torch.float64
    assert float(frame["total_energy"][0, 0]) == pytest.approx(alloy[0].get_potential_energy())
    np.testing.assert_allclose(frame["forces"], alloy[0].get_forces(), atol=1e-7)
    np.testing.assert_allclose(frame["stress"][0], alloy[0].get_stress(voigt=False), atol=1e-7)


def test_transforms_get_a_copy_and_name_the_frame_they_refuse(workplace):
    dataset = ASEDataset("data.xyz", transforms=[ChemicalSpeciesToAtomTypeMapper(["Al", "Cu"])])
    assert dataset[0]["atom_types"].tolist() == [0, 1, 1, 1]
    assert "atom_types" in dataset[0]  # a second access starts from the file again
    dataset = ASEDataset("data.xyz", transforms=[ChemicalSpeciesToAtomTypeMapper(["Cu"])])
    with pytest.raises(UnknownSpeciesError, match=r"frame 3 of 'data.xyz': species Al"):
        dataset[3]
    part = RandomSplitAndIndexDataset(dataset, {"a": 5, "b": 7}, "a", seed=1)
    with pytest.raises(UnknownSpeciesError, match=f"frame {part.indices[0]} of 'data.xyz'"):
        part[0]


def test_keys_of_the_file_are_mapped_included_and_left_out(workplace, alloy):
    atoms = alloy[0].copy()
    atoms.info["my_energy"] = -3.0
    atoms.arrays["my_forces"] = np.ones((4, 3))
    ase.io.write("keys.xyz", atoms)
    mapping = {"my_energy": "total_energy", "my_forces": "forces"}
    frame = ASEDataset("keys.xyz", key_mapping=mapping, ase_args={"format": "extxyz"})[0]
    assert float(frame["total_energy"]) == -3.0
    assert torch.equal(frame["forces"], torch.ones(4, 3, dtype=torch.float64))
    assert "forces" not in ASEDataset("data.xyz", exclude_keys=["forces"])[0]


def test_files_that_cannot_be_read_are_named(workplace):
    with pytest.raises(MissingFileError, match=r"no data file at 'no.xyz'"):
        ASEDataset("no.xyz")
    (workplace / "broken.xyz").write_text("3\nProperties=species:S:1:pos:R:3\nH 0 0\n")
    with pytest.raises(DataError, match=r"ASE cannot read 'broken.xyz'"):
        ASEDataset("broken.xyz")
    (workplace / "empty.xyz").write_text("")
    with pytest.raises(DataError, match=r"'empty.xyz'"):
        ASEDataset("empty.xyz")
    with pytest.raises(ConfigError, match="ase_args must not contain 'index'"):
        ASEDataset("data.xyz", ase_args={"index": 0})


def test_parts_of_a_split_are_disjoint_complete_and_reproducible(workplace):
    dataset = ASEDataset("data.xyz")
    sizes = {"train": 0.5, "val": 0.25, "test": 0.25}
    parts = {key: RandomSplitAndIndexDataset(dataset, sizes, key, seed=7) for key in sizes}
    indices = [index for part in parts.values() for index in part.indices]
    assert sorted(indices) == list(range(12))
    again = RandomSplitAndIndexDataset(dataset, sizes, "val", seed=7)
    assert again.indices == parts["val"].indices
    expected = torch.utils.data.random_split(
        range(12), [0.5, 0.25, 0.25], generator=torch.Generator().manual_seed(7)
    )
    assert parts["val"].indices == list(expected[1].indices)
    assert torch.equal(parts["val"][0]["pos"], dataset[again.indices[0]]["pos"])
    assert parts["val"].num_atoms([0]) == [4]


def test_a_random_slice_is_a_piece_of_the_permutation(workplace):
    dataset = ASEDataset("data.xyz")
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3)).tolist()
    part = SubsetByRandomSlice(dataset, start=2, length=4, seed=3)
    assert part.indices == order[2:6]
    assert len(part) == 4


@pytest.mark.parametrize(
    ("sizes", "key", "message"),
    [
        ({"train": 5, "val": 5}, "train", "cannot split the 12 frames"),
        ({"train": 6, "val": 6}, "tran", "did you mean 'train'"),
        ({"train": 12, "val": 0}, "val", "is empty"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(sizes, key, message, workplace):
    with pytest.raises(ConfigError, match=message):
        RandomSplitAndIndexDataset(ASEDataset("data.xyz"), sizes, key, seed=1)
    with pytest.raises(ConfigError, match="only 12 frames"):
        SubsetByRandomSlice(ASEDataset("data.xyz"), start=9, length=4, seed=1)


def test_emt_frames_are_labelled_and_reproducible():
    first = EMTTestDataset(supercell=(1, 1, 1), num_frames=2, element="Al", seed=5)
    second = EMTTestDataset(supercell=(1, 1, 1), num_frames=2, element="Al", seed=5)
    assert len(first) == 2
    assert {"total_energy", "forces", "stress"} <= set(first[0])
    assert torch.equal(first[1]["forces"], second[1]["forces"])
    with pytest.raises(ConfigError, match="no parameters for 'Fe'"):
        EMTTestDataset(element="Fe")


class Numbers(EMTTestDataset):
    """Frames that are told apart by their place."""

    def __init__(self):
        super().__init__(supercell=(1, 1, 1), num_frames=1)
        self.frames = [dict(self.frames[0]) for _ in range(23)]


def test_subsets_have_the_frames_of_the_reference():
    """The indices that nequip 0.19.1 gives for a data set of 23 entries whose item i is i.

    Command, with the reference installed: ``[SubsetByRandomSlice(d, 3, 6, 17)[i] for i in
    range(6)]``, and likewise ``RandomSplitAndIndexDataset(d, {"a": 0.5, "b": 0.25, "c": 0.25}, key,
    5)``, both of ``nequip.data.dataset``.
    """
    dataset = Numbers()
    assert SubsetByRandomSlice(dataset, 3, 6, 17).indices == [5, 21, 12, 2, 20, 7]
    expected = {
        "a": [3, 11, 18, 8, 22, 21, 6, 16, 1, 13, 7, 17],
        "b": [15, 12, 14, 9, 20, 0],
        "c": [10, 2, 19, 4, 5],
    }
    for key, indices in expected.items():
        split = {"a": 0.5, "b": 0.25, "c": 0.25}
        assert RandomSplitAndIndexDataset(dataset, split, key, 5).indices == indices


@pytest.fixture
def partly_labelled(tmp_path):
    """Three molecules; only the first has 'dft_energy', only the last 'dft_forces'."""
    structures = [molecule("H2O") for _ in range(3)]
    structures[0].info["dft_energy"] = -1.0
    structures[2].arrays["dft_forces"] = np.ones((3, 3))
    ase.io.write(tmp_path / "partly.xyz", structures, format="extxyz")
    return str(tmp_path / "partly.xyz")


def test_frames_may_lack_keys_that_other_frames_have(partly_labelled, caplog):
    dataset = ASEDataset(
        partly_labelled, key_mapping={"dft_energy": "total_energy", "dft_forces": "forces"}
    )
    assert ["total_energy" in frame for frame in dataset.frames] == [True, False, False]
    assert ["forces" in frame for frame in dataset.frames] == [False, False, True]
    assert caplog.text == ""


def test_a_key_that_no_frame_has_is_warned_of(partly_labelled, caplog):
    ASEDataset(partly_labelled, include_keys=["hirshfeld"], key_mapping={"virial_x": "virial"})
    assert "has 'hirshfeld' or 'virial_x'; the file has 'dft_energy', 'dft_forces'" in caplog.text


@pytest.mark.parametrize(
    "arguments", [{"include_keys": ["dft_force"]}, {"key_mapping": {"dft_force": "forces"}}]
)
def test_a_misspelled_key_is_refused_with_the_key_of_the_file(partly_labelled, arguments):
    with pytest.raises(DataError, match=r"xyz' has no 'dft_force', but 'dft_forces' that nothing"):
        ASEDataset(partly_labelled, **arguments)
    assert len(ASEDataset(partly_labelled, exclude_keys=["dft_forces"], **arguments)) == 3


def test_the_frames_of_an_xyz_file_are_counted_without_reading_it(workplace):
    dataset = UnreadASEDataset("data.xyz")
    assert dataset.length_without_reading() == 12
    assert "frames" not in vars(dataset)
    assert len(dataset) == dataset.length_without_reading() == 12
    for text in ("\n", "2\n\nH 0 0 0\n", "no number\n", "1\n\nH 0 0 0\n-3\n"):
        (workplace / "other.xyz").write_text(text)
        found = UnreadASEDataset("other.xyz").length_without_reading()
        assert found == (0 if text == "\n" else None), text
