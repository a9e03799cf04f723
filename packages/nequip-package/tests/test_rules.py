"""Packaging rules come from every installed distribution and must not contradict each other."""

from __future__ import annotations

import pytest

from nequip_core.archive.rules import PackagingRules
from nequip_core.errors import PackagingError, PluginError
from nequip_package import rules


def test_rules_in_force_are_those_of_the_installed_layers() -> None:
    found = rules.collect_rules()
    assert {"nequip_core", "nequip_model", "e3nn"} <= set(found.internal)
    assert {"numpy", "io", "sys", "nequip_kernels"} <= set(found.external)
    assert "matplotlib" in found.mock


@pytest.mark.parametrize(
    ("other", "category"),
    [
        (PackagingRules(internal=("numpy",)), "internal"),
        (PackagingRules(mock=("numpy",)), "mock"),
    ],
)
def test_contradiction_names_both_declarers(other: PackagingRules, category: str) -> None:
    sources = {"core": PackagingRules(external=("numpy",)), "plugin": other}
    with pytest.raises(PackagingError, match=f"'numpy' is declared external .*core and {category}"):
        rules.merge_rules(sources)


def test_same_declaration_twice_is_one() -> None:
    one = PackagingRules(external=("numpy",))
    assert rules.merge_rules({"a": one, "b": one}) == one


def test_extensions_are_internal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "import_extensions", lambda: ["allegro", "les.model"])
    assert {"allegro", "les"} <= set(rules.collect_rules().internal)


def test_registered_libraries_are_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "registered_rules", lambda: PackagingRules(external=("les_lib",)))
    assert "les_lib" in rules.collect_rules().external


def test_entry_of_another_type_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "plugin_names", lambda group: ["odd"])
    monkeypatch.setattr(rules, "load_plugin", lambda group, name: {"internal": ["odd"]})
    with pytest.raises(PluginError, match=r"'odd'.*must be PackagingRules, found dict"):
        rules.collect_rules()


def test_required_versions_of_everybody_hold_together() -> None:
    found = rules.merge_rules(
        {
            "a": PackagingRules(external=("lib",), requirements={"lib": "<3"}),
            "b": PackagingRules(external=("lib",), requirements={"lib": ">=1.2"}),
        }
    )
    assert found.requirements == {"lib": "<3,>=1.2"}


def test_required_version_of_what_is_not_external_is_refused() -> None:
    with pytest.raises(PackagingError, match=r"b states versions of 'lib', which is not declared"):
        rules.merge_rules({"b": PackagingRules(requirements={"lib": ">=1"})})


def test_required_version_that_is_none_is_refused() -> None:
    odd = PackagingRules(external=("lib",), requirements={"lib": "1.x"})
    with pytest.raises(PackagingError, match=r"b states '1.x' for 'lib', which is no PEP 440"):
        rules.merge_rules({"b": odd})


def test_part_of_a_module_cannot_be_of_another_category() -> None:
    sources = {
        "a": PackagingRules(internal=("lib",)),
        "b": PackagingRules(external=("lib.gpu",)),
    }
    with pytest.raises(PackagingError, match=r"'lib.gpu' .*external.* by b.*'lib'.*internal by a"):
        rules.merge_rules(sources)
