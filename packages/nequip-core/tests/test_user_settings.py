"""Where caches and data of the user are, and what switches something off."""

from pathlib import Path

import pytest

from nequip_core.user_settings import cache_or_none, says_off, user_caches, user_data

VARIABLE = "NEQUIP_CACHE_OF_A_TEST"


def test_folders_are_those_of_the_xdg_specification(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert (user_caches(), user_data()) == (Path("/caches/nequip"), Path("/data/nequip"))
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert user_caches() == Path("/home/somebody/.cache/nequip")
    assert user_data() == Path("/home/somebody/.local/share/nequip")


@pytest.mark.parametrize("value", ["off", " OFF ", "0", "no", "False"])
def test_a_cache_is_switched_off(value, monkeypatch):
    monkeypatch.setenv(VARIABLE, value)
    assert says_off(value)
    assert cache_or_none(VARIABLE, "things") is None


def test_an_empty_value_is_no_folder_and_switches_nothing_else_off(monkeypatch):
    monkeypatch.setenv(VARIABLE, " ")
    assert cache_or_none(VARIABLE, "things") is None
    assert not says_off("")


def test_a_cache_is_where_the_variable_says_or_among_the_users_caches(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_or_none(VARIABLE, "things") == Path("/caches/nequip/things")
    monkeypatch.setenv(VARIABLE, "/somewhere/else")
    assert cache_or_none(VARIABLE, "things") == Path("/somewhere/else")


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def home():
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert cache_or_none(VARIABLE, "things") is None
