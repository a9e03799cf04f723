"""Verification shows each output with its deviation, by every way to load."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import nequip_package.verify as verify
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import ConfigError, FileFormatError
from nequip_core.files import atomic_path
from nequip_package.members import copy_members, write_members
from nequip_package.tensors import tensors_bytes
from nequip_package.verify import agrees, largest_deviation, verify_package

OUTPUTS = {"total_energy", "atomic_energy", "forces", "virial", "stress"}


def rewritten(package: Path, target: Path, replaced: dict[str, bytes]) -> Path:
    """Write a package with other members, its manifest fitting them."""
    with atomic_path(target) as path:
        members = copy_members(PackageReader(package), path.parent)
        members.pop("model/manifest.json")
        write_members(path, {**members, **replaced})
    return target


def test_both_ways_reproduce_every_output(package: Path) -> None:
    result = verify_package(package)
    assert result.ok
    assert result.skipped == []
    assert result.identity == PackageReader(package).identity
    found = {(row.way, row.frame, row.field) for row in result.rows}
    assert found == {
        (way, frame, field)
        for way in ("snapshot", "rebuild")
        for frame in ("periodic", "cluster")
        for field in OUTPUTS
    }
    assert all(row.tolerance == 1e-12 and row.deviation <= 1e-12 for row in result.rows)


def test_output_that_is_not_reproduced_is_found(package: Path, tmp_path: Path) -> None:
    stored = PackageReader(package).reference()
    tensors = {
        f"input/{name}/{key}": value
        for name, frame in stored["frames"].items()
        for key, value in frame.items()
    }
    for frame, outputs in stored["outputs"]["sole_model"].items():
        for key, value in outputs.items():
            shift = 1e-3 if (frame, key) == ("cluster", "forces") else 0.0
            tensors[f"output/sole_model/{frame}/{key}"] = value + shift
    tolerances = {"tolerance_float32": "1.0", "tolerance_float64": "1.0"}
    content = tensors_bytes(tensors, tolerances)
    other = rewritten(package, tmp_path / "a.nequip.zip", {"model/reference.safetensors": content})
    result = verify_package(other, trust_code=True)
    assert not result.ok
    [row] = [row for row in result.rows if not row.ok]
    assert (row.way, row.model, row.frame, row.field) == (
        "snapshot",
        "sole_model",
        "cluster",
        "forces",
    )
    assert row.deviation == pytest.approx(1e-3)
    assert row.tolerance == 1e-12, "a file cannot widen it"
    assert [skipped.way for skipped in result.skipped] == ["rebuild"]


def test_without_consent_only_the_rebuild_runs(package: Path) -> None:
    result = verify_package(package, trust_code=False)
    assert result.ok
    assert result.ways == ["rebuild"]
    assert [skipped.way for skipped in result.skipped] == ["snapshot"]
    assert "nequip-package audit" in result.skipped[0].reason


def test_static_verification_runs_nothing(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open_importer", "load_opened", "rebuild"):
        monkeypatch.delattr(verify, name)
    done: list[tuple[int, int]] = []
    result = verify_package(package, static=True, progress=lambda *step: done.append(step))
    assert result.ok
    assert result.rows == []
    assert {skipped.way for skipped in result.skipped} == {"snapshot", "rebuild"}
    assert done
    assert done[-1][0] == done[-1][1]


@pytest.mark.parametrize("member", ["model/weights.safetensors", "model/eager_model.pkl"])
def test_flipped_bit_is_found(package: Path, tmp_path: Path, member: str) -> None:
    damaged = tmp_path / "damaged.nequip.zip"
    shutil.copy(package, damaged)
    content = PackageReader(package).read_bytes(member)
    whole = bytearray(damaged.read_bytes())
    whole[whole.index(content) + len(content) // 2] ^= 1
    damaged.write_bytes(bytes(whole))
    with pytest.raises(FileFormatError, match=member):
        verify_package(damaged, static=True)


def test_package_without_descriptions_is_verified_by_snapshot(
    reference_package: Callable[..., Path], tmp_path: Path
) -> None:
    from nequip_package.upgrade import upgrade_package

    source = reference_package("0.19.1")
    target = upgrade_package(source, tmp_path / "new.nequip.zip", trust_code=True)
    result = verify_package(target)
    assert result.ok
    assert result.ways == ["snapshot"]
    assert [(s.way, s.is_failure) for s in result.skipped] == [("rebuild", False)]
    assert {row.field for row in result.rows if row.frame == "cluster"} == OUTPUTS - {"stress"}


def test_older_format_says_what_would_prove_it(reference_package: Callable[..., Path]) -> None:
    result = verify_package(reference_package("0.19.1"), trust_code=True)
    assert result.rows == []
    assert any("nequip-package upgrade" in skipped.reason for skipped in result.skipped)


def test_device_that_is_not_there_is_an_error(package: Path) -> None:
    with pytest.raises(ConfigError, match="cannot run on the device 'abacus'"):
        verify_package(package, device="abacus")


def test_code_that_does_not_run_is_a_failure(package: Path, tmp_path: Path) -> None:
    source = PackageReader(package).read_bytes("nequip_model/nn/gate.py")
    replaced = {"nequip_model/nn/gate.py": source + b"\nraise ValueError('broken')\n"}
    other = rewritten(package, tmp_path / "a.nequip.zip", replaced)
    result = verify_package(other, trust_code=True)
    assert not result.ok
    assert result.ways == ["rebuild"]
    [skipped] = result.skipped
    assert (skipped.way, skipped.is_failure) == ("snapshot", True)
    assert "broken" in skipped.reason


def test_rule_of_agreement() -> None:
    expected = torch.tensor([0.0, 100.0], dtype=torch.float64)
    assert agrees(expected + torch.tensor([1e-6, 1e-4]), expected, 1e-6)
    assert not agrees(expected + torch.tensor([2e-6, 0.0]), expected, 1e-6)
    assert not agrees(expected.reshape(2, 1), expected, 1.0)
    assert not agrees(None, expected, 1.0)
    assert largest_deviation(None, expected) == math.inf
    assert largest_deviation(expected[:0], expected[:0]) == 0.0
    assert largest_deviation(expected + 0.5, expected) == 0.5
