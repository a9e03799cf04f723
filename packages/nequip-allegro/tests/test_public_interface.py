"""This distribution is written against public names only, as any extension package can be."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "packages" / "nequip-allegro" / "src" / "allegro"
RECORDS = ROOT / "tests" / "contracts" / "public_names"
LAYERS = ("nequip_core", "nequip_model")
FOREIGN = ("torch",)


def promised() -> set[str]:
    """Return the public names of the layers, dotted."""
    files = [RECORDS / f"{layer.replace('_', '-')}.txt" for layer in LAYERS]
    return {name for file in files for name in file.read_text().split()}


def imported(text: str) -> set[str]:
    """Return the dotted names that a source imports, of anything but the standard library."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = f"{'.' * node.level}{node.module or ''}"
            names |= {f"{start}.{alias.name}" for alias in node.names}
    return names


def not_public(text: str) -> list[str]:
    """Return what a source imports of others that is no public name of nequip-core or -model."""
    own = {*sys.stdlib_module_names, "allegro", *FOREIGN}
    names = {name for name in imported(text) if name.partition(".")[0] not in own}
    return sorted(names - promised())


def test_what_is_imported_is_public() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 8
    found = {str(file.relative_to(SOURCE)): not_public(file.read_text()) for file in files}
    assert not {file: names for file, names in found.items() if names}
    used = set().union(*(imported(file.read_text()) for file in files))
    assert len({name for name in used if name.startswith(LAYERS)}) > 20


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("from nequip_model.gnn import _energies", "nequip_model.gnn._energies"),
        ("import nequip_model.nn", "nequip_model.nn"),
        ("def f():\n    from nequip_train import loops", "nequip_train.loops"),
        ("import e3nn", "e3nn"),
    ],
)
def test_private_and_undeclared_imports_are_found(text: str, name: str) -> None:
    assert not_public(text) == [name]
    assert not_public("from nequip_core.fields import POSITIONS_KEY\nimport torch.nn") == []


def test_documented_names_exist() -> None:
    documented = {
        "allegro.model": ["AllegroModel", "AllegroEnergyModel"],
        "allegro.model.allegro_models": ["FullAllegroModel", "FullAllegroEnergyModel"],
        "allegro.nn": [
            "Allegro_Module",
            "EdgewiseReduce",
            "ProductTypeEmbedding",
            "TwoBodyBesselScalarEmbed",
            "TwoBodySphericalHarmonicTensorEmbed",
            "TwoBodySplineScalarEmbed",
        ],
    }
    for module, names in documented.items():
        for name in names:
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
