"""Metadata of older formats in the current shape: 1 -> 2 -> 3, pure functions."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from nequip_core.archive.format import NEWEST_READABLE, OLDEST_FORMAT
from nequip_core.archive.metadata_rules import metadata_fault
from nequip_core.archive.upgrades import (
    UPGRADES,
    upgrade_1_to_2,
    upgrade_2_to_3,
    upgrade_metadata,
)

METADATA = {
    "package_version_id": 2,
    "versions": {"nequip": "0.19.1", "torch": "2.13.0"},
    "external_modules": {"numpy": "2.4.6", "io": None},
    "available_models": ["eager", "compile"],
    "atom_types": {0: "Cu", 1: "Au"},
}
MODEL = {
    "_target_": "nequip.model.NequIPGNNModel",
    "model_dtype": "float32",
    "type_names": ["Cu", "Au"],
    "r_max": 4,
}


def config_of(model: Any) -> dict[str, Any]:
    return {"training_module": {"_target_": "nequip.train.EMALightningModule", "model": model}}


def test_there_is_an_upgrade_from_every_older_format() -> None:
    assert set(UPGRADES) == set(range(OLDEST_FORMAT, NEWEST_READABLE))


def test_upgrades_change_neither_metadata_nor_config() -> None:
    metadata, config = copy.deepcopy(METADATA), config_of(copy.deepcopy(MODEL))
    upgrade_metadata(metadata, 1, config)
    assert (metadata, config) == (METADATA, config_of(MODEL))


def test_format_1_has_the_eager_mode() -> None:
    old = {"package_version_id": 1, "atom_types": {0: "H"}}
    assert upgrade_1_to_2(old, {}) == {**old, "available_models": ["eager"]}
    stated = {**old, "available_models": ["eager", "compile"]}
    assert upgrade_1_to_2(stated, {}) == stated


def test_what_the_config_tells_is_added() -> None:
    upgraded = upgrade_2_to_3(METADATA, config_of(MODEL))
    assert upgraded == {
        **METADATA,
        "type_names": ["Cu", "Au"],
        "model_names": ["sole_model"],
        "r_max": 4.0,
        "model_dtype": "float32",
    }
    assert metadata_fault(upgraded, 2) is None


def test_what_the_metadata_state_is_kept() -> None:
    stated = {**METADATA, "r_max": 5.5, "model_dtype": "float64"}
    upgraded = upgrade_2_to_3(stated, config_of(MODEL))
    assert (upgraded["r_max"], upgraded["model_dtype"]) == (5.5, "float64")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"Cu": 3.5}, "3.5 3.5 4.0 4.0"),
        ({"Au": {"Cu": 3.25}}, "4.0 4.0 3.25 4.0"),
        ({"Cu": 3, "Au": {"Cu": 3.75, "Au": 4.0}}, "3.0 3.0 3.75 4.0"),
        ({}, "4.0 4.0 4.0 4.0"),
        (None, None),
        ({"Cu": "far"}, None),
    ],
)
def test_cutoffs_of_pairs_become_text(given: Any, expected: str | None) -> None:
    model = {**MODEL, "per_edge_type_cutoff": given}
    assert upgrade_2_to_3(METADATA, config_of(model)).get("per_edge_type_cutoff") == expected


def test_model_inside_modifiers_is_found() -> None:
    inner = {"_target_": "nequip.model.modify", "modifiers": [], "model": MODEL}
    outer = {"_target_": "nequip.model.modify", "modifiers": [], "model": inner}
    assert upgrade_2_to_3(METADATA, config_of(outer))["r_max"] == 4.0


def test_several_models_are_named() -> None:
    config = config_of({"first": MODEL, "second": {**MODEL, "r_max": 9.0}})
    upgraded = upgrade_2_to_3(METADATA, config)
    assert (upgraded["model_names"], upgraded["r_max"]) == (["first", "second"], 4.0)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"training_module": None},
        config_of(None),
        config_of([]),
        config_of({"_target_": "nequip.model.ModelFromPackage", "package_path": "a.nequip.zip"}),
        config_of({**MODEL, "r_max": "far", "model_dtype": 64}),
    ],
)
def test_what_nothing_tells_is_absent(config: dict[str, Any]) -> None:
    upgraded = upgrade_2_to_3(METADATA, config)
    assert not {"r_max", "model_dtype", "num_parameters", "units", "modifiers"} & set(upgraded)
    assert upgraded["type_names"] == ["Cu", "Au"]


@pytest.mark.parametrize("types", [None, ["H"], {1: "H"}, {"0": "H"}])
def test_types_that_are_not_numbered_name_nothing(types: Any) -> None:
    assert "type_names" not in upgrade_2_to_3({**METADATA, "atom_types": types}, {})
