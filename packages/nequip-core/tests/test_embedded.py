"""Packages that a checkpoint carries: what is recorded, what is used, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nequip_core.archive.embedded import (
    check_bases,
    is_recording_contents,
    open_base,
    record_checkpoint,
    recording,
    using,
)
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import FileFormatError, MissingFileError

GOLDEN = Path(__file__).parents[3] / "tests/golden/format2-nequip-0.1.0/model.nequip.zip"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return Path(shutil.copy(GOLDEN, tmp_path / "base.nequip.zip"))


@pytest.fixture
def bases(package: Path) -> dict[str, Any]:
    with recording() as record, open_base(package):
        pass
    return record.bases


def test_a_file_is_recorded_with_its_bytes(package: Path, bases: dict[str, Any]) -> None:
    identity = PackageReader(package).identity
    assert bases["package_paths"] == {str(package): identity}
    assert bytes(bases["packages"][identity].numpy()) == package.read_bytes()
    check_bases(bases, "here")


def test_without_contents_only_the_parent_is_recorded(package: Path) -> None:
    assert not is_recording_contents()
    with recording(keep_contents=False) as record, open_base(package):
        assert not is_recording_contents()
    assert record.bases == {}
    assert [parent.digest for parent in record.parents] == [PackageReader(package).identity]
    assert record.parents[0].relation == "fine-tuned"
    assert record.parents[0].modes == ("eager",)


def test_what_is_carried_stands_in_for_the_file(package: Path, bases: dict[str, Any]) -> None:
    package.unlink()
    with using(bases), recording() as record, open_base(package) as reader:
        assert reader.type_names == ["Cu", "Au"]
        copy = reader.path
    assert not copy.exists()
    assert record.bases == bases
    with pytest.raises(MissingFileError), open_base(package):
        pass


def test_a_path_that_is_not_carried_is_a_file(package: Path, bases: dict[str, Any]) -> None:
    other = Path(shutil.copy(package, package.with_name("other.nequip.zip")))
    with using(bases), open_base(other) as reader:
        assert reader.path == other


def test_bytes_that_are_not_the_package_of_their_key_are_refused(
    package: Path, bases: dict[str, Any]
) -> None:
    (identity,) = bases["packages"]
    content = bases["packages"][identity].clone()
    content[-30] ^= 1
    with (
        pytest.raises(FileFormatError, match=r"carried by the checkpoint: .*base\.nequip\.zip"),
        using({**bases, "packages": {identity: content}}),
        open_base(package),
    ):
        pass


def test_errors_name_the_path_of_the_config_and_no_temporary_file(
    package: Path, bases: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(FileFormatError) as caught, using(bases), open_base(package) as reader:
        raise FileFormatError(f"'{reader.path}' is odd")
    assert str(caught.value) == f"of the package carried by the checkpoint: '{package}' is odd"


def test_a_base_checkpoint_is_recorded_with_its_ancestors(package: Path) -> None:
    with recording() as own, open_base(package):
        pass
    with recording() as record:
        record_checkpoint("a.ckpt", "d" * 64, {"_target_": "x"}, own)
    entry = record.bases["checkpoints"]["a.ckpt"]
    assert entry["model"] == {"_target_": "x"}
    assert entry["bases"] == own.bases
    (parent,) = record.parents
    assert (parent.digest, parent.format) == ("d" * 64, None)
    assert parent.steps[0]["digest"] == PackageReader(package).identity
    assert parent.steps[0]["format"] == 2
    check_bases(record.bases, "here")


@pytest.mark.parametrize(
    ("bases", "message"),
    [
        ([], "no mapping"),
        ({"packages": [1]}, "a part of it is no mapping"),
        ({"packages": {"a": b"bytes"}}, "package a is not bytes"),
        ({"packages": {"a": torch.zeros(3)}}, "package a is not bytes"),
        ({"packages": {"a": torch.zeros(3, 3, dtype=torch.uint8)}}, "package a is not bytes"),
        ({"package_paths": {"x": "a"}}, "package 'x' is missing"),
        ({"checkpoints": {"x": {}}}, "checkpoint 'x' has no model config"),
        ({"checkpoints": {"x": {"model": {}, "bases": [1]}}}, "no mapping"),
    ],
)
def test_a_record_of_another_form_is_refused(bases: Any, message: str) -> None:
    with pytest.raises(FileFormatError, match=f"here: what it carries .*{message}"):
        check_bases(bases, "here")
