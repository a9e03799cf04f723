"""Consent: what this user built here is known, as long as nobody else can say so."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nequip_core.archive.trust import (
    TRUST_VARIABLE,
    consent,
    is_refused,
    is_trusted,
    remember_built,
    trusting,
)
from nequip_core.errors import ConfigError

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture(autouse=True)
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of identities, in a folder of this test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    return tmp_path / "data" / "nequip" / "built-packages"


def test_nothing_is_known_at_first() -> None:
    assert not is_trusted(ONE)
    assert not consent(None, ONE)


def test_what_was_built_here_is_known_and_nothing_else(known: Path) -> None:
    remember_built(ONE)
    assert is_trusted(ONE)
    assert not is_trusted(TWO)
    assert consent(None, ONE)
    assert stat.S_IMODE(known.stat().st_mode) == 0o600
    assert stat.S_IMODE(known.parent.stat().st_mode) == 0o700


def test_an_identity_is_written_once_a_line(known: Path) -> None:
    for identity in (ONE, TWO, ONE):
        remember_built(identity)
    assert known.read_text() == f"{ONE}\n{TWO}\n"


@pytest.mark.parametrize("odd", ["", "1" * 63, "G" * 64, "A" * 64, f"{ONE}\n{TWO}", "1" * 65])
def test_what_is_no_identity_is_neither_written_nor_known(known: Path, odd: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        remember_built(odd)
    known.parent.mkdir(parents=True)
    known.parent.chmod(0o700)
    known.write_text(f"{odd}\n")
    known.chmod(0o600)
    assert not is_trusted(odd)


def others_may_write(known: Path) -> None:
    known.chmod(0o622)


def group_may_write(known: Path) -> None:
    known.chmod(0o660)


def others_may_write_the_folder(known: Path) -> None:
    known.parent.chmod(0o777)


def is_a_link(known: Path) -> None:
    known.rename(known.with_name("elsewhere"))
    known.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "spoil", [others_may_write, group_may_write, others_may_write_the_folder, is_a_link]
)
def test_a_file_that_others_could_have_written_does_not_count(
    known: Path, spoil: Callable[[Path], None]
) -> None:
    remember_built(ONE)
    spoil(known)
    before = known.read_text()
    assert not is_trusted(ONE)
    remember_built(TWO)
    assert known.read_text() == before


def test_a_file_of_another_user_does_not_count(
    known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_built(ONE)
    owner = known.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    assert not is_trusted(ONE)


def test_a_home_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    remember_built(ONE, tmp_path / "alloy.nequip.zip")
    assert "alloy.nequip.zip' is not remembered as built here (" in caplog.text
    assert "will not run here without consent" in caplog.text
    assert ONE not in caplog.text
    remember_built(TWO)
    assert f"'{TWO}' is not remembered as built here (" in caplog.text
    assert not is_trusted(ONE)


def test_a_relative_data_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    remember_built(ONE)
    assert (tmp_path / "home/.local/share/nequip/built-packages").exists()
    assert not (tmp_path / "here").exists()


def test_only_a_no_of_the_caller_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "0")
    assert is_refused(False)
    assert not is_refused(None)
    assert not is_refused(True)
    with trusting(False):
        assert is_refused(None)
        assert not is_refused(True)


def test_the_caller_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    remember_built(ONE)
    assert not consent(False, ONE)
    assert consent(True, TWO)
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    assert consent(None, TWO)
    assert not consent(False, TWO)


@pytest.mark.parametrize("text", ["0", "", "false", "no"])
def test_the_environment_can_say_no_more_than_nothing(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_built(ONE)
    monkeypatch.setenv(TRUST_VARIABLE, text)
    assert consent(None, ONE)
    assert not consent(None, TWO)


def test_an_environment_variable_that_says_something_else_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "maybe")
    with pytest.raises(ConfigError, match=r"NEQUIP_TRUST_CODE must be 1 or 0, got 'maybe'"):
        consent(None, ONE)


def test_consent_holds_inside_and_not_after() -> None:
    with trusting(True):
        assert consent(None, ONE)
        with trusting(None):
            assert consent(None, ONE)
        with trusting(False):
            assert not consent(None, ONE)
        assert not consent(False, ONE)
    assert not consent(None, ONE)


REMEMBER_MANY = """
import sys
from nequip_core.archive.trust import remember_built
for number in range(int(sys.argv[1]), int(sys.argv[1]) + 50):
    remember_built(f"{number:064x}")
"""


def test_processes_that_write_at_once_lose_nothing(known: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", REMEMBER_MANY, str(i * 100)]) for i in range(4)
    ]
    assert [process.wait() for process in processes] == [0] * 4
    lines = known.read_text().split()
    assert sorted(lines) == [f"{i * 100 + j:064x}" for i in range(4) for j in range(50)]
