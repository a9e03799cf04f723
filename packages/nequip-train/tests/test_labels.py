"""Which labels the data have, and what is said where loss or metrics need others."""

from __future__ import annotations

import ase.io
import h5py
import numpy as np
import pytest
import torch

from nequip_core.errors import DataError
from nequip_train.checking.labels import Need, check_labels
from nequip_train.data.array_datasets import HDF5Dataset, NPZDataset
from nequip_train.data.ase_datamodule import ASEDataModule
from nequip_train.data.subsets import SubsetByRandomSlice

NAN_STRESS = {"_target_": "nequip.data.transforms.AddNaNStressTransform"}
STRESS = Need("train_loss_step/stress_mse", "train", "stress", ignores_nan=False)
FORCES = Need("val0_epoch/forces_mae", "val", "forces", ignores_nan=False)


def data(config, **changes):
    arguments = {k: v for k, v in config["data"].items() if k not in ("_target_", "stats_manager")}
    arguments["transforms"] = [{**arguments["transforms"][0], "model_type_names": ["Al", "Cu"]}]
    arguments["transforms"] += config["data"]["transforms"][2:]
    arguments["test_dataloader"] = None
    return ASEDataModule(**{**arguments, **changes})


def without(alloy, names, every=1):
    """Return the frames, every n-th of them without some results."""
    frames = [atoms.copy() for atoms in alloy]
    for index, atoms in enumerate(frames):
        results = dict(alloy[index].calc.results)
        for name in names if index % every == 0 else ():
            atoms.info[f"REF_{name}"] = results.pop(name)
        atoms.calc = type(alloy[index].calc)(atoms, **results)
    return frames


def test_table_has_a_row_a_label_and_says_what_uses_it(config, workplace):
    _, table = check_labels(data(config), [STRESS, FORCES], ["train"])
    assert [line.split() for line in table] == [
        ["label", "train", "'data.xyz'", "val", "'data.xyz'", "used", "by"],
        ["forces", "6/6", "3/3", "val", "metrics"],
        ["stress", "6/6", "3/3", "loss"],
        ["total_energy", "6/6", "3/3", "nothing"],
    ]


def test_label_under_another_name_is_found_in_the_file(config, workplace, alloy):
    ase.io.write(workplace / "data.xyz", without(alloy, ["stress"]))
    with pytest.raises(DataError) as caught:
        check_labels(data(config), [STRESS], ["train"])
    assert str(caught.value) == (
        "'train_loss_step/stress_mse' needs the label 'stress', but no frame of 'data.xyz' "
        "(data.train) has it (6 of its 6 frames were looked at). The file has 'REF_stress': take "
        "it by key_mapping: {REF_stress: stress}"
    )
    taken = data(config, key_mapping={"REF_stress": "stress"})
    coverages, _ = check_labels(taken, [STRESS], ["train"])
    assert coverages[0].labelled["stress"] == 6


def test_label_that_is_not_there_at_all_is_said_with_what_is(config, workplace):
    need = Need("train_loss_step/dipole_mse", "train", "dipole", ignores_nan=False)
    with pytest.raises(DataError, match=r"The frames have forces, stress, total_energy, "):
        check_labels(data(config), [need], ["train"])


def test_label_that_some_frames_lack_is_said_with_the_first_of_them(config, workplace, alloy):
    frames = without(alloy, ["stress"], every=2)
    ase.io.write(workplace / "data.xyz", frames)
    module = data(config, split_dataset=None, train_file_path="data.xyz")
    with pytest.raises(DataError, match=r"but 6 frames of 'data.xyz' .* frame 0 .*ignore_nan"):
        check_labels(module, [STRESS], ["train"])
    ase.io.write(workplace / "data.xyz", frames[1:])
    module = data(config, split_dataset=None, train_file_path="data.xyz")
    with pytest.raises(DataError, match=r"but 5 frames of 'data.xyz' .* frame 1 "):
        check_labels(module, [STRESS], ["train"])


def test_labels_that_are_all_nan_are_warned_of_and_not_counted(config, workplace, alloy, caplog):
    ase.io.write(workplace / "data.xyz", without(alloy, ["stress"]))
    config["data"]["transforms"].append(NAN_STRESS)
    module = data(config)
    need = Need(STRESS.name, "train", "stress", ignores_nan=True)
    coverages, _ = check_labels(module, [need], ["train"])
    assert (coverages[0].present["stress"], coverages[0].labelled["stress"]) == (6, 0)
    assert "'train_loss_step/stress_mse' will be NaN" in caplog.text


def test_only_some_frames_of_a_large_set_are_looked_at_spread_evenly(config, workplace):
    module = data(config, split_dataset=None, train_file_path="data.xyz")
    coverages, _ = check_labels(module, [STRESS], ["train"], at_most=4)
    assert (coverages[0].frames, coverages[0].looked_at) == (12, 4)
    assert coverages[0].sizes == [(4, 0)] * 4


def test_a_part_that_is_not_run_is_not_needed(config, workplace):
    coverages, _ = check_labels(data(config), [FORCES, STRESS], ["test"])
    assert [coverage.part for coverage in coverages] == ["test"]


def test_data_sets_know_the_names_in_their_files(tmp_path, workplace, config):
    arrays = {"R": np.zeros((2, 1, 3)), "z": np.ones(1, int), "E": np.zeros(2), "U": np.zeros(2)}
    np.savez(tmp_path / "a.npz", **arrays)
    dataset = NPZDataset(str(tmp_path / "a.npz"))
    assert dataset.keys_in_files() == ["E", "R", "U", "z"]
    assert SubsetByRandomSlice(dataset, 0, 1, seed=0).keys_in_files() == ["E", "R", "U", "z"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["first/pos"], file["first/other"] = np.zeros((2, 1, 3)), np.zeros(2)
    assert HDF5Dataset(str(tmp_path / "a.h5")).keys_in_files() == ["other", "pos"]
    assert torch.is_tensor(dataset[0]["pos"])
