"""Checks of other distributions see the models before any data is read."""

from __future__ import annotations

import logging

import pytest
import torch

from nequip_core.errors import PackagingError
from nequip_train import before_training


@pytest.fixture
def offer(monkeypatch):
    """Return a function that makes a check the only installed one."""

    def offer(check):
        monkeypatch.setattr(before_training, "plugin_names", lambda group: [group])
        monkeypatch.setattr(before_training, "load_plugin", lambda group, name: check)

    return offer


def test_refused_model_stops_the_run_before_data_are_read(config, train, workplace, offer, capsys):
    def refuse(models):
        raise PackagingError(f"no package of {list(models)}")

    offer(refuse)
    (workplace / "broken.xyz").write_text("not a frame")
    config["data"]["split_dataset"]["file_path"] = "broken.xyz"
    assert train(config) == 1
    assert "no package of ['sole_model']" in capsys.readouterr().err
    assert not (workplace / "out").exists()


def test_restart_is_checked_too_and_evaluation_is_not(config, train, offer, capsys):
    seen = []

    def note(models):
        seen.append(list(models))
        return []

    offer(note)
    config["run"] = ["train"]
    assert train(config, "trainer.max_epochs=1", "hydra.run.dir=first") == 0
    assert train(config, "++ckpt_path=first/last.ckpt", "hydra.run.dir=second") == 0
    assert seen == [["sole_model"], ["sole_model"]]
    config["run"] = ["test"]
    assert train(config) == 0
    assert len(seen) == 2


def test_advice_of_a_check_is_logged(offer, caplog):
    offer(lambda models: ["isinstance is a pitfall"])
    with caplog.at_level(logging.WARNING):
        before_training.check_before_training(torch.nn.ModuleDict())
    assert [record.getMessage() for record in caplog.records] == ["isinstance is a pitfall"]
