"""Resolvers of configs."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from nequip_core.errors import ConfigError, MissingFileError
from nequip_train import resolvers
from nequip_train.check import resolve


@pytest.fixture(autouse=True)
def registered():
    resolvers.register_resolvers()
    resolvers.register_resolvers()


def value(text, **variables):
    return resolve(OmegaConf.create({"value": text, **variables}), "value")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${int_div:12,4}", 3),
        ("${int_mul:3,'4'}", 12),
        ("${concat_lists:${a},${b}}", ["x", "y", "z"]),
        ("${list_to_identity_dict:${a}}", {"x": "x", "y": "y"}),
        ("${list_to_constant_dict:${a},1.5}", {"x": 1.5, "y": 1.5}),
    ],
)
def test_a_resolver_gives_its_value(text, expected):
    assert value(text, a=["x", "y"], b=["z"]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${int_div:7,2}", "value: int_div: 7 is not divisible by 2"),
        ("${int_div:7,0}", "not divisible by 0"),
        ("${int_mul:-1,2}", "whole numbers"),
        ("${concat_lists:a,b}", "takes lists"),
        ("${list_to_identity_dict:a}", "takes lists"),
    ],
)
def test_a_wrong_argument_is_an_error_with_the_key_path(text, message):
    with pytest.raises(ConfigError, match=message):
        value(text)


def test_statistics_are_those_of_the_latest_run():
    asked = resolvers.register_statistics(None)
    assert value("${training_data_stats:anything}") == 1.0
    assert asked == ["anything"]
    resolvers.register_statistics({"mean": 2.5, "by_type": {"H": 1.0}})
    assert value("${training_data_stats:mean}") == 2.5
    assert value("${training_data_stats:by_type}") == {"H": 1.0}
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        value("${training_data_stats:mea}")


def test_a_statistic_of_nothing_is_refused():
    resolvers.register_statistics({"rms": {"H": 1.0, "O": float("nan")}})
    with pytest.raises(ConfigError, match="the statistic 'rms of O' of the training data is nan"):
        value("${training_data_stats:rms}")


def test_a_missing_package_is_named():
    with pytest.raises(ConfigError, match=r"no package at 'no.nequip.zip'"):
        value("${type_names_from_package:no.nequip.zip}")
    with pytest.raises(MissingFileError):
        resolvers.cutoff_radius_from_package("no.nequip.zip")


class Package:
    def __init__(self, metadata, config="{}"):
        self.metadata = metadata
        self.config_text = config


def test_types_and_cutoff_come_from_what_a_package_says_of_itself(monkeypatch):
    def offer(*arguments):
        monkeypatch.setattr(resolvers, "_package", lambda path: Package(*arguments))

    offer({"atom_types": {1: "O", 0: "H"}, "r_max": 4.5})
    assert resolvers.type_names_from_package("x.nequip.zip") == ["H", "O"]
    assert resolvers.cutoff_radius_from_package("x.nequip.zip") == 4.5
    offer({}, "training_module: {model: {r_max: 5.0}}")
    assert resolvers.cutoff_radius_from_package("x.nequip.zip") == 5.0
    offer({})
    with pytest.raises(ConfigError, match="does not say its cutoff radius"):
        resolvers.cutoff_radius_from_package("x.nequip.zip")
    with pytest.raises(ConfigError, match="do not name its types"):
        resolvers.type_names_from_package("x.nequip.zip")


def test_resolver_of_an_extension_is_registered_once() -> None:
    def plus_one(value: int) -> int:
        return value + 1

    resolvers.register_resolvers({"plus_one_of_a_test": plus_one})
    resolvers.register_resolvers({"plus_one_of_a_test": plus_one})
    assert OmegaConf.create({"x": "${plus_one_of_a_test:2}"}).x == 3
    with pytest.raises(ConfigError, match="'int_div' already"):
        resolvers.register_resolvers({"int_div": plus_one})
    with pytest.raises(ConfigError, match="'plus_one_of_a_test' already"):
        resolvers.register_resolvers({"plus_one_of_a_test": lambda value: value})
    OmegaConf.clear_resolver("plus_one_of_a_test")
