"""Saved models are found by the ending of their name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nequip_core import saved_model
from nequip_core.errors import (
    ConfigError,
    FileFormatError,
    MissingDependencyError,
    MissingFileError,
)
from nequip_core.saved_model import SavedModel, load_saved_model, select_model


@pytest.fixture
def loaders(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Return loaders that take the place of the installed ones, by suffix."""
    table: dict[str, object] = {}
    monkeypatch.setattr(saved_model, "plugin_names", lambda group: sorted(table))
    monkeypatch.setattr(saved_model, "load_plugin", lambda group, name: table[name])
    return table


def test_longest_ending_wins(loaders: dict[str, object], tmp_path: Path) -> None:
    loaders["zip"] = lambda path: ("zip", path)
    loaders["nequip.zip"] = lambda path: ("nequip.zip", path)
    for name, expected in (("a.nequip.zip", "nequip.zip"), ("a.zip", "zip")):
        (tmp_path / name).touch()
        assert load_saved_model(tmp_path / name) == (expected, tmp_path / name)


def test_packages_are_read_by_this_distribution() -> None:
    assert "nequip.zip" in saved_model.plugin_names(saved_model.MODEL_LOADERS)


def test_unknown_ending_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    with pytest.raises(FileFormatError, match=r"must end in one of \.ckpt, .*\.nequip\.zip"):
        load_saved_model(tmp_path / "model.pt")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"gone\.nequip\.zip"):
        load_saved_model(tmp_path / "gone.nequip.zip")


def test_missing_loader_says_what_to_install(loaders: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").touch()
    with pytest.raises(MissingDependencyError, match="install nequip-model beside nequip-core"):
        load_saved_model(tmp_path / "a.ckpt")


def test_models_are_selected_by_name(tmp_path: Path) -> None:
    models = torch.nn.ModuleDict({"sole_model": torch.nn.Identity()})
    saved = SavedModel(models, {}, {}, tmp_path / "a.ckpt")
    assert select_model(saved) is models["sole_model"]
    with pytest.raises(ConfigError, match=r"no model 'sole'.*\['sole_model'\]"):
        select_model(saved, "sole")


def test_error_of_the_operating_system_is_reported_as_a_bad_file(
    loaders: dict[str, object], tmp_path: Path
) -> None:
    def fail(path: Path) -> None:
        raise OSError(22, "Invalid argument")

    loaders["ckpt"] = fail
    (tmp_path / "a.ckpt").touch()
    with pytest.raises(FileFormatError, match=r"a\.ckpt.*a damaged one.*Invalid argument"):
        load_saved_model(tmp_path / "a.ckpt")
