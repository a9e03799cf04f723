"""``card``: shown, edited into a new package, refused where the result would be none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from nequip_core.archive.container import read_entries, require_canonical
from nequip_core.archive.loading import load_package
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.trust import is_trusted, remember_built
from nequip_core.errors import ConfigError, FileFormatError, PackagingError
from nequip_package.card import edited_card, write_card
from nequip_package.command import main

FORMAT_2 = Path(__file__).parents[3] / "tests/golden/format2-nequip-0.1.0/model.nequip.zip"


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_a_card_is_written_into_a_new_package(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = package.read_bytes()
    output = tmp_path / "b.nequip.zip"
    values = tmp_path / "card.yaml"
    values.write_text("name: alloy\nunits: {energy: eV, length: Angstrom}\nlicense: GPL-2.0-only\n")
    edits = ["--set", "license=MIT", "--set", "authors=[A, B]", "--set", "metrics.forces_mae=0.012"]
    arguments = ["card", str(package), str(output), "--from", str(values), *edits]
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""
    expected = {
        "authors": ["A", "B"],
        "license": "MIT",
        "metrics": {"forces_mae": 0.012},
        "name": "alloy",
        "units": {"energy": "eV", "length": "Angstrom"},
    }
    for form, parse in (("--json", json.loads), ("--yaml", yaml.safe_load)):
        assert main(["card", str(output), form]) == 0
        assert parse(capsys.readouterr().out) == expected
    assert main(["card", str(output)]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == expected
    assert package.read_bytes() == before


def test_everything_but_card_and_lineage_stays_byte_by_byte(package: Path, tmp_path: Path) -> None:
    reader = PackageReader(package)
    written = write_card(reader, tmp_path / "b.nequip.zip", {"license": "MIT"})
    require_canonical(written.path, read_entries(written.path))
    written.verify_contents()
    names = [name.partition("/")[2] for _, name in reader.members()]
    assert [name.partition("/")[2] for _, name in written.members()] == names
    changed = {name for name in names if reader.read_bytes(name) != written.read_bytes(name)}
    assert changed == {"model/card.json", "model/lineage.json", "model/manifest.json"}
    assert written.identity != reader.identity
    assert written.lineage[0] == {
        "relation": "card edited",
        "digest": reader.identity,
        "format": 3,
        "packager": written.lineage[0]["packager"],
        "details": {"keys": ["license"]},
    }
    assert written.lineage[1:] == reader.lineage
    second = write_card(written, tmp_path / "c.nequip.zip", {})
    assert [step["digest"] for step in second.lineage[:2]] == [written.identity, reader.identity]
    assert second.card == {}


def test_a_package_built_here_stays_so_and_another_does_not_become_it(
    package: Path, tmp_path: Path
) -> None:
    reader = PackageReader(package)
    assert not is_trusted(write_card(reader, tmp_path / "b.nequip.zip", {"name": "b"}).identity)
    remember_built(reader.identity)
    written = write_card(reader, tmp_path / "c.nequip.zip", {"name": "c"})
    assert is_trusted(written.identity)
    assert load_package(written.path, load="snapshot").models


def test_values_are_set_and_removed_by_dotted_keys() -> None:
    card = {"metrics": {"a": 1.0, "b": 2.0}, "name": "x"}
    assert edited_card(card, {"metrics.c": 3}, ["metrics.a", "name"]) == {
        "metrics": {"b": 2.0, "c": 3}
    }
    assert card == {"metrics": {"a": 1.0, "b": 2.0}, "name": "x"}


@pytest.mark.parametrize(
    ("changes", "removed", "message"),
    [
        ({"license": 3}, [], "must have text as 'license'"),
        ({"authors": "A"}, [], "must have a list as 'authors'"),
        ({"metrics.mae": "small"}, [], "numbers as 'metrics'"),
        ({"metrics.mae": float("nan")}, [], "finite numbers"),
        ({"name.first": "x"}, [], "'name' of the card is no mapping"),
        ({"": 1}, [], "is no key of a card"),
        ({"description": "trained in /home/somebody/runs"}, [], "holds an absolute path"),
        ({}, ["license"], "the card has no 'license'"),
    ],
)
def test_what_is_no_card_is_refused(
    changes: dict[str, object], removed: list[str], message: str
) -> None:
    with pytest.raises((ConfigError, PackagingError), match=message):
        edited_card({"name": "x"}, changes, removed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "license"], "--set takes KEY=VALUE"),
        (["--set", "authors=[a"], "is not YAML"),
        (["--set", "license=3"], "must have text"),
        (["--set", "license=[x"], "in quotes"),
        (["--from", "gone.yaml"], "does not exist"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    arguments: list[str],
    message: str,
    package: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "b.nequip.zip"
    assert main(["card", str(package), str(output), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert error.count("\n") == 1
    assert not output.exists() and list(tmp_path.iterdir()) == []


def test_a_date_is_kept_as_text(package: Path, tmp_path: Path) -> None:
    output = tmp_path / "b.nequip.zip"
    assert main(["card", str(package), str(output), "--set", "date=2026-01-01"]) == 0
    assert PackageReader(output).card["date"] == "2026-01-01"


@pytest.mark.parametrize("arguments", [["--set", "license=MIT"], ["b.nequip.zip"]])
def test_an_edit_needs_an_output_and_an_output_an_edit(
    arguments: list[str], package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["card", str(package), *arguments])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("usage: nequip-package card")


def test_the_input_is_never_the_output(package: Path) -> None:
    before = package.read_bytes()
    with pytest.raises(ConfigError, match="input and output must differ"):
        write_card(PackageReader(package), package, {"license": "MIT"})
    assert package.read_bytes() == before


def test_an_older_format_has_to_be_upgraded_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileFormatError, match="nequip-package upgrade"):
        write_card(PackageReader(FORMAT_2), tmp_path / "b.nequip.zip", {})
    assert main(["card", str(FORMAT_2)]) == 0
    assert capsys.readouterr().out == "(no model card)\n"
