"""Where the code of models comes from: the environment, or the package that they were loaded from.

A model that was loaded from a package, fine-tuned or not, keeps the code of that package when it is
packaged again. All of it must come from one importer; what the package does not have, such as an
extension added since, comes from the environment.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

import torch
import yaml
from torch.package import Importer, PackageExporter, PackageImporter, is_from_package, sys_importer

from nequip_core.archive.format import METADATA_NAME, MODEL_FOLDER
from nequip_core.archive.rules import PackagingRules
from nequip_core.errors import PackagingError

__all__ = ["CodeOrigin", "code_origin"]

# What the stand-ins of mocked modules import.
_MOCK_MODULE = "_mock"
_MANGLED = "<torch_package_"


class CodeOrigin:
    """The importers and rules for one export.

    Args:
        snapshot: importer of the package that models came from; None if there is none.
        rules: packaging rules of the environment.
    """

    def __init__(self, snapshot: PackageImporter | None, rules: PackagingRules) -> None:
        self.snapshot = snapshot
        self.rules = rules
        self.sources = {} if snapshot is None else snapshot_sources(snapshot)
        self.mocks = sorted(name for name, text in self.sources.items() if _is_stand_in(text))

    @property
    def importer(self) -> Importer:
        """The importer that an exporter resolves classes and sources with."""
        return sys_importer if self.snapshot is None else _SnapshotFirst(self.snapshot, self)

    def tops(self) -> set[str]:
        """Return the top-level names of the code that the snapshot brings."""
        return {name.partition(".")[0] for name in self.sources if name not in self.mocks} - {
            _MOCK_MODULE
        }

    def stated(self, key: str) -> dict[str, Any] | None:
        """Return a mapping of the snapshot's metadata; None if there is no snapshot.

        Args:
            key: a key of ``package_metadata.txt`` whose value is a mapping.
        """
        if self.snapshot is None:
            return None
        text = self.snapshot.load_text(MODEL_FOLDER, METADATA_NAME)
        return dict((yaml.safe_load(text) or {}).get(key) or {})

    def declare(self, exporter: PackageExporter) -> None:
        """Give the rules to an exporter: those of the snapshot first, then the environment's."""
        # The first pattern that fits decides.
        if self.snapshot is not None:
            if self.mocks:
                exporter.mock(self.mocks)
            exporter.intern([f"{name}.**" for name in sorted(self.tops())])
            exporter.extern(list(self.snapshot.extern_modules))
        exporter.extern([f"{name}.**" for name in self.rules.external])
        exporter.mock([f"{name}.**" for name in self.rules.mock])
        exporter.intern([f"{name}.**" for name in self.rules.internal])


def code_origin(models: Iterable[torch.nn.ModuleDict], rules: PackagingRules) -> CodeOrigin:
    """Return where the code of `models` comes from.

    Raises:
        PackagingError: it comes from several packages, or some of it from a package and some,
            of the same library, from the environment.
    """
    importers: dict[int, PackageImporter] = {}
    installed: dict[str, Any] = {}
    for each in models:
        for module in each.modules():
            kind = type(module)
            if is_from_package(module):
                importer = _importer_of_class(kind)
                importers[id(importer)] = importer
            else:
                installed.setdefault(kind.__module__.partition(".")[0], kind)
    if len(importers) > 1:
        raise PackagingError(
            f"the models run code from {len(importers)} packages; what is packaged together must "
            "come from one: load them from one file"
        )
    origin = CodeOrigin(next(iter(importers.values()), None), rules)
    mixed = sorted(origin.tops() & set(installed))
    if mixed:
        kind = installed[mixed[0]]
        raise PackagingError(
            f"the model mixes the '{mixed[0]}' of the package it came from with the installed one "
            f"(class {kind.__module__}.{kind.__qualname__}); only one of them can be packaged: "
            "change the model by modifiers of the package, or train it anew"
        )
    return origin


def snapshot_sources(snapshot: PackageImporter) -> dict[str, str]:
    """Return the sources in a package by the dotted name of their modules."""
    reader = snapshot.zip_reader
    found = {}
    for member in sorted(reader.get_all_records()):
        if not member.endswith(".py"):
            continue
        name = member.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        found[name] = reader.get_record(member).decode("utf-8")
    return found


def _importer_of_class(kind: type) -> PackageImporter:
    for name in ("forward", "__init__", *vars(kind)):
        function = getattr(kind, name, None)
        loader = getattr(function, "__globals__", {}).get("__loader__")
        if isinstance(loader, PackageImporter):
            return loader
    raise PackagingError(
        f"'{kind.__module__}.{kind.__qualname__}' says that it comes from a package, but not which"
    )


def _is_stand_in(text: str) -> bool:
    return f"from {_MOCK_MODULE} import MockedObject" in text


class _SnapshotFirst(Importer):
    """Resolves what a package has in the package, and everything else in the environment."""

    def __init__(self, snapshot: PackageImporter, origin: CodeOrigin) -> None:
        self._snapshot = snapshot
        self._origin = origin
        self._tops = origin.tops()

    def import_module(self, module_name: str) -> ModuleType:
        if module_name in self._origin.sources:
            return self._snapshot.import_module(module_name)
        top = module_name.partition(".")[0]
        if top in self._tops and not self._is_parent(module_name):
            raise ModuleNotFoundError(
                f"the package that the model came from has '{top}', but no '{module_name}'"
            )
        return sys_importer.import_module(module_name)

    def get_name(self, obj: Any, name: str | None = None) -> tuple[str, str]:
        # torch.package marks the modules of a package by their names.
        if str(getattr(obj, "__module__", "")).startswith(_MANGLED):
            return self._snapshot.get_name(obj, name)
        return sys_importer.get_name(obj, name)

    def whichmodule(self, obj: Any, name: str) -> str:
        return sys_importer.whichmodule(obj, name)

    def _is_parent(self, module_name: str) -> bool:
        return any(name.startswith(f"{module_name}.") for name in self._origin.sources)
