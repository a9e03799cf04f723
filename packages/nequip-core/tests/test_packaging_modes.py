"""Packaging modes are registered by extensions and always hold the eager model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nequip_core.archive import modes
from nequip_core.archive.rules import PackagingRules
from nequip_core.errors import ConfigError, PackagingError


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test registers."""
    monkeypatch.setattr(modes, "_registered", dict(modes._registered))
    yield


def both() -> list[str]:
    return ["compile", "eager", "compile"]


def test_default_mode_holds_the_eager_model() -> None:
    assert modes.forms_of_mode()[0] == "eager"
    assert modes.DEFAULT_MODE in modes.packaging_modes()


def test_registered_mode_is_offered_with_eager_first() -> None:
    modes.register_packaging_mode("mine", both)
    modes.register_packaging_mode("mine", both)
    assert modes.forms_of_mode("mine") == ["eager", "compile"]
    assert modes.packaging_modes()["mine"] == ["eager", "compile"]


def test_name_of_another_mode_is_refused() -> None:
    with pytest.raises(PackagingError, match="'nequip' is already registered"):
        modes.register_packaging_mode("nequip", both)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(PackagingError, match="needs a function that returns its forms, found list"):
        modes.register_packaging_mode("mine", ["eager"])  # type: ignore[arg-type]


def test_unknown_mode_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no packaging mode 'nequp' .*did you mean 'nequip'"):
        modes.forms_of_mode("nequp")


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        (["compile"], r"must hold 'eager', found \['compile'\]"),
        ("eager", "must return a list of names of forms, found 'eager'"),
        ([1], r"must return a list of names of forms, found \[1\]"),
    ],
)
def test_mode_without_the_eager_model_is_refused(forms: object, message: str) -> None:
    modes.register_packaging_mode("mine", lambda: forms)  # type: ignore[arg-type, return-value]
    with pytest.raises(PackagingError, match=message):
        modes.forms_of_mode("mine")


def test_rules_carry_the_versions_that_do() -> None:
    rules = PackagingRules(external=("some_library",), requirements={"some_library": ">=2"})
    assert rules.requirements == {"some_library": ">=2"}
    assert dict(PackagingRules().requirements) == {}
    assert len({rules, PackagingRules()}) == 2
