"""What a description may name in an extension package: builders, module classes, no other names."""

from __future__ import annotations

import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from nequip_core.archive import permitted
from nequip_core.archive.permitted import check_description, check_target, is_permitted_path
from nequip_core.errors import FileFormatError

EXTENSION = """
    from __future__ import annotations
    import os
    import torch
    from os import system
    from torch.nn import Linear
    from toy_stranger import outside

    class Layer(torch.nn.Module):
        pass

    class NoLayer:
        pass

    def make_layer(size: int) -> Layer:
        return Layer()

    def make_something(size: int) -> object:
        return size

    def make_unknown(size):
        return size

    def make_undefined() -> Undefined:
        return None

    def builder():
        return Layer()
    builder.architecture_name = "toy_extension.builder"

    _make_layer = make_layer
"""


@pytest.fixture(autouse=True)
def extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an extension package on the path, registered as ``toy_extension``, and a stranger."""
    (tmp_path / "toy_extension.py").write_text(textwrap.dedent(EXTENSION))
    (tmp_path / "toy_stranger.py").write_text(
        "import torch\ndef outside() -> torch.nn.Module: ...\nclass Layer(torch.nn.Module): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("init_always", "toy_extension", "nequip.extension")
    monkeypatch.setattr(permitted, "extension_entries", lambda: [entry])
    for name in ("toy_extension", "toy_stranger"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("name", ["Layer", "make_layer", "builder"])
def test_what_makes_modules_may_be_named(name: str) -> None:
    check_target(f"toy_extension.{name}", "here")


@pytest.mark.parametrize(
    "name",
    [
        "NoLayer",
        "make_something",
        "make_unknown",
        "make_undefined",
        "system",
        "Linear",
        "outside",
        "torch",
        "absent",
    ],
)
def test_what_makes_no_modules_or_comes_from_elsewhere_may_not(name: str) -> None:
    with pytest.raises(FileFormatError, match="is no builder and no module class"):
        check_target(f"toy_extension.{name}", "here")


@pytest.mark.parametrize(
    "path",
    [
        "toy_extension",
        "toy_extension._make_layer",
        "toy_extension.__builtins__",
        "toy_extension.os.system.__call__",
        "toy_extensions.Layer",
        "toy_stranger.Layer",
        "toy_extension.Layer ",
        "t\u043ey_extension.Layer",  # a Cyrillic letter
        "",
        None,
        3,
    ],
)
def test_paths_that_lie_elsewhere_are_refused_without_an_import(path: object) -> None:
    assert not is_permitted_path(path)
    with pytest.raises(FileFormatError, match="may not make this program import"):
        check_target(path, "here")  # type: ignore[arg-type]
    assert "toy_extension" not in sys.modules
    assert "toy_stranger" not in sys.modules


def test_an_extension_is_imported_only_if_every_name_is_permitted() -> None:
    targets = [{"_target_": "toy_extension.Layer"}, {"_target_": "toy_stranger.Layer"}]
    description = {
        "architecture": "toy_extension.builder",
        "version": None,
        "arguments": {"parts": targets},
        "modifiers": [],
    }
    with pytest.raises(FileFormatError, match=r"parts\[1\]\._target_ names 'toy_stranger\.Layer'"):
        check_description(description, "here")
    assert "toy_extension" not in sys.modules
    del targets[1]
    check_description(description, "here")
    assert "toy_extension" in sys.modules


def test_a_module_class_is_no_architecture() -> None:
    description = {"architecture": "toy_extension.Layer", "version": None, "arguments": {}}
    with pytest.raises(FileFormatError, match=r"'toy_extension\.Layer' is not a model builder"):
        check_description(description, "here")
