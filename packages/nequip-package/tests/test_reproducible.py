"""The same model gives the same bytes, and nothing of the machine it was packaged on."""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nequip_core.archive.reader import PackageReader
from nequip_core.saved_model import SavedModel, load_saved_model
from nequip_package.build import build_package

MAIN = "import sys; from nequip_package.command import main; sys.exit(main(sys.argv[1:]))"


def run_command(*arguments: str, **options: Any) -> None:
    subprocess.run([sys.executable, "-c", MAIN, *arguments], check=True, **options)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_name_folder_hash_seed_and_process_do_not_change_the_bytes(
    checkpoint: Path, tmp_path: Path
) -> None:
    found = {digest(build_package(load_saved_model(checkpoint), tmp_path / "small.nequip.zip"))}
    for seed, name in (("1", "other-name.nequip.zip"), ("12345", "x.nequip.zip")):
        folder = tmp_path / seed
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run_command("build", str(checkpoint), name, env=environment, cwd=folder)
        found.add(digest(folder / name))
    assert len(found) == 1


@pytest.mark.parametrize("version", ["0.10.0", "0.19.1"])
def test_package_of_nequip_is_upgraded_to_the_same_bytes_by_any_process(
    reference_package: Any, tmp_path: Path, version: str
) -> None:
    source = reference_package(version)
    found = set()
    for seed in ("1", "2"):
        output = tmp_path / f"{seed}.nequip.zip"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run_command("upgrade", str(source), str(output), "--trust-code", env=environment)
        found.add(digest(output))
    assert len(found) == 1


def test_package_names_neither_the_machine_nor_the_user_nor_its_folders(
    saved: SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret-project"
    secret.mkdir()
    config = {
        "data": {"split_dataset": {"file_path": str(secret / "alloy.xyz")}},
        "trainer": {"callbacks": [{"dirpath": str(secret)}], "note": f"see '{secret}/notes.txt'"},
        "training_module": saved.config["training_module"],
    }
    monkeypatch.chdir(secret)
    odd = SavedModel(saved.models, config, {}, secret / "small.ckpt")
    written = build_package(odd, secret / "secret-name.nequip.zip")
    content = written.read_bytes()
    reader = PackageReader(written)
    assert reader.config["data"]["split_dataset"]["file_path"] == "alloy.xyz"
    assert reader.config["trainer"] == {
        "callbacks": [{"dirpath": "secret-project"}],
        "note": "see 'notes.txt'",
    }
    places = [tmp_path, Path.home(), Path(sys.prefix), Path(torch.__file__).parents[1]]
    places += [Path(__file__).parents[3], Path(os.path.realpath(sys.executable)).parent]
    for place in places:
        # A word boundary: the home '/root' is no part of a relative import or a URL.
        found = re.search(rb"(?<![\w/])" + re.escape(str(place).encode()) + rb"(?!\w)", content)
        assert found is None, place
    for text in ("secret-name", "<torch_package_", platform.node()):
        assert text.encode() not in content, text
    user = getpass.getuser()
    assert not re.search(rb"(home|Users)/" + user.encode(), content)


def test_package_holds_no_frame_of_the_training(
    checkpoint: Path, package: Path, tmp_path: Path
) -> None:
    # The data set that the config names does not exist, so nothing can have been read from it.
    assert not (checkpoint.parent / "alloy.xyz").exists()
    reader = PackageReader(package)
    fields = {name.rpartition("/")[2] for name in reader.example_frame()}
    assert not fields & {"forces", "total_energy", "stress", "virial"}
