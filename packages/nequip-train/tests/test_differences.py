"""What counts as a change of a run, and which changes a run may go on with."""

from __future__ import annotations

import pytest

from nequip_core.errors import ConfigError
from nequip_train.restart.differences import (
    ANY_STATISTIC,
    Difference,
    check_unchanged,
    differences,
    is_safe,
)

CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"
STOPPING = "lightning.pytorch.callbacks.EarlyStopping"


def config(**changes):
    sections = {
        "data": {"seed": 1, "train_dataloader": {"batch_size": 5}},
        "trainer": {"max_epochs": 10, "callbacks": [{"_target_": CHECKPOINT, "dirpath": "a"}]},
        "training_module": {"model": {"shifts": {"H": 1.5, "O": 2.0}, "r_max": 4.0}},
    }
    for path, value in changes.items():
        *parents, key = path.split("__")
        section = sections
        for parent in parents:
            section = section[parent]
        section[key] = value
    return sections


def test_equal_configs_have_no_differences():
    assert differences(config(), config()) == []


def test_statistics_match_whatever_was_measured():
    now = config(training_module__model__shifts=ANY_STATISTIC)
    assert differences(config(), now) == []
    now = config(training_module__model__r_max=ANY_STATISTIC)
    assert differences(config(), now) == []


def test_changed_added_and_removed_keys_are_found():
    now = config(data__seed=2, data__new=None)
    del now["training_module"]["model"]["r_max"]
    assert [str(item) for item in differences(config(), now)] == [
        "data.seed: 1 -> 2",
        "data.new: (absent) -> None",
        "training_module.model.r_max: 4.0 -> (absent)",
    ]


def test_one_more_callback_does_not_change_those_after_it():
    stopping = {"_target_": STOPPING, "patience": 3}
    now = config()
    now["trainer"]["callbacks"].insert(0, stopping)
    found = differences(config(), now)
    assert {item.key.rpartition(".")[0] for item in found} == {"trainer.callbacks.EarlyStopping[0]"}


@pytest.mark.parametrize(
    ("key", "safe"),
    [
        ("trainer.max_epochs", True),
        ("trainer.callbacks.ModelCheckpoint[1].save_top_k", True),
        ("trainer.callbacks.EarlyStopping[0].patience", False),
        ("trainer.callbacks.TestTimeXYZFileWriter[0].out_file", True),
        ("trainer.callbacks.SoftAdapt[0].beta", False),
        ("trainer.logger.save_dir", True),
        ("trainer.accumulate_grad_batches", False),
        ("trainer.gradient_clip_val", False),
        ("trainer.devices", False),
        ("data.train_dataloader.num_workers", True),
        ("data.train_dataloader.batch_size", False),
        ("data.val_dataloader.batch_size", False),
        ("data.test_file_path", True),
        ("data.train_file_path", False),
        ("data.seed", False),
        ("training_module.optimizer.lr", False),
        ("training_module.model.trust_code", True),
    ],
)
def test_what_leaves_the_training_as_it_is_is_safe(key, safe):
    assert is_safe(Difference(key, 1, 2)) == safe


def test_unsafe_changes_are_refused_all_at_once_unless_forced():
    now = config(data__seed=2, data__train_dataloader__batch_size=4, trainer__max_epochs=20)
    with pytest.raises(ConfigError) as refused:
        check_unchanged(config(), now, "a.ckpt", force=False)
    message = str(refused.value)
    assert "data.seed: 1 -> 2" in message
    assert "batch_size: 5 -> 4" in message
    assert "max_epochs" not in message
    assert "ModelFromCheckpoint" not in message
    assert len(check_unchanged(config(), now, "a.ckpt", force=True)) == 3


def test_a_changed_training_module_comes_with_another_way():
    now = config(training_module__model__r_max=5.0)
    with pytest.raises(ConfigError, match="ModelFromCheckpoint"):
        check_unchanged(config(), now, "a.ckpt", force=False)
