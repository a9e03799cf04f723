"""Data modules: splits, loaders, generators, statistics."""

from __future__ import annotations

import pytest
import torch

from nequip_core.errors import ConfigError, DataError
from nequip_train.data.ase_datamodule import ASEDataModule
from nequip_train.data.datamodules import NequIPDataModule, collate

EMT = {
    "_target_": "nequip.data.dataset.EMTTestDataset",
    "supercell": [1, 1, 1],
    "num_frames": 6,
    "element": "Al",
    "transforms": [
        {
            "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
            "model_type_names": ["Al"],
        },
        {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": 3.0},
    ],
}
STATISTICS = {"_target_": "nequip.data.CommonDataStatisticsManager", "type_names": ["Al"]}


def module(**arguments):
    return NequIPDataModule(
        seed=1,
        train_dataset=EMT,
        split_dataset={"dataset": EMT, "val": 2, "test": 4},
        train_dataloader={"batch_size": 2, "shuffle": True},
        **arguments,
    )


def order(loader):
    return [batch["pos"][:, 0].tolist() for batch in loader]


def test_explicit_data_sets_come_before_parts_of_splits():
    data = NequIPDataModule(
        seed=1, val_dataset=[EMT, EMT], split_dataset=[{"dataset": EMT, "train": 2, "val": 4}]
    )
    assert data.num_datasets == {"train": 1, "val": 3, "test": 0, "predict": 0}
    data.setup("fit")
    assert [len(dataset) for dataset in data.datasets["val"]] == [6, 6, 4]


def test_equal_data_sets_are_read_once():
    data = module()
    data.setup("fit")
    data.setup("test")
    assert data.datasets["val"][0].dataset is data.datasets["test"][0].dataset


def test_loaders_batch_frames_in_a_seeded_order():
    data = module()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["num_atoms"].tolist() == [2, 2]
    assert batch["total_energy"].shape == (2, 1)
    assert len(data.val_dataloader()) == 1
    first, second = module(), module()
    for fresh in (first, second):
        fresh.setup("fit")
    assert order(first.train_dataloader()) == order(second.train_dataloader())
    second_epoch = order(second.train_dataloader())
    assert order(first.train_dataloader()) == second_epoch


def test_validation_and_statistics_do_not_change_the_order_of_training():
    plain, busy = module(), module(stats_manager=STATISTICS)
    plain.setup("fit")
    busy.get_statistics()
    busy.setup("fit")
    list(busy.val_dataloader()[0])
    assert order(plain.train_dataloader()) == order(busy.train_dataloader())


def test_the_state_continues_the_order():
    first, second = module(), module()
    first.setup("fit")
    second.setup("fit")
    list(first.train_dataloader())
    second.load_state_dict(first.state_dict())
    assert order(second.train_dataloader()) == order(first.train_dataloader())
    assert set(first.state_dict()) == {
        "train_generator_state",
        "generator_state",
        "_train_dataloader_0",
    }


def test_statistics_are_of_the_data_set_asked_for():
    data = module(stats_manager=STATISTICS)
    whole = data.get_statistics("train")
    assert whole["num_neighbors_mean"] > 0
    assert data.get_statistics("test", 0)["forces_rms"] != whole["forces_rms"]
    assert module().get_statistics() == {}


def test_a_stage_without_data_is_refused():
    data = NequIPDataModule(seed=1, train_dataset=EMT)
    with pytest.raises(ConfigError, match="'test' is to run but data has no test data set"):
        data.setup("test")


def test_teardown_keeps_the_generators():
    data = module()
    data.setup("fit")
    list(data.train_dataloader())
    state = data.state_dict()["train_generator_state"]
    data.teardown("fit")
    assert data.datasets == {}
    assert torch.equal(data.state_dict()["train_generator_state"], state)


def test_frames_with_different_fields_are_refused_with_a_way_out():
    data = module()
    data.setup("fit")
    frames = data.datasets["train"][0][:2]
    del frames[1]["stress"]
    with pytest.raises(DataError, match=r"lacks \['stress'\].*AddNaNStressTransform"):
        collate(frames)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": "a"}, "seed must be an integer"),
        ({"train_dataloader": {"generator": 1}}, "train_dataloader.generator: is given"),
        ({"split_dataset": {"dataset": EMT}}, "lacks a key"),
        ({"split_dataset": {"dataset": EMT, "vall": 2}}, "did you mean 'val'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        NequIPDataModule(**{"seed": 1, **arguments})


def test_ase_files_become_data_sets_by_path_or_split(workplace):
    data = ASEDataModule(
        seed=1,
        test_file_path=["data.xyz", "data.xyz"],
        split_dataset={"file_path": "data.xyz", "train": 0.5, "val": 0.5},
        transforms=EMT["transforms"],
    )
    assert data.num_datasets == {"train": 1, "val": 1, "test": 2, "predict": 0}
    with pytest.raises(ConfigError, match="lacks 'file_path'"):
        ASEDataModule(seed=1, split_dataset={"dataset": EMT, "train": 1})


def test_statistics_name_the_data_set_and_the_statistic_that_cannot_be_taken(workplace):
    arguments = {"file_path": "data.xyz", "train": 6, "val": 6}
    data = ASEDataModule(
        seed=1,
        split_dataset=arguments,
        exclude_keys=["forces"],
        transforms=[
            {**EMT["transforms"][0], "model_type_names": ["Al", "Cu"]},
            *EMT["transforms"][1:],
        ],
        stats_manager={**STATISTICS, "type_names": ["Al", "Cu"]},
    )
    with pytest.raises(
        DataError,
        match=r"'data.xyz' \(data.train_dataset\[0\]\): the statistic 'forces_rms': the data has "
        r"no 'forces' \(it has .*pos, ",
    ):
        data.get_statistics()
    with pytest.raises(ConfigError, match="no train data set 1: there are 1"):
        data.get_statistics("train", 1)
    with pytest.raises(ConfigError, match="no part 'training'"):
        data.get_statistics("training")
