"""The package that another one is made from: its models, all by one importer, and its facts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nequip_core.archive.loading import load_opened
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.snapshot import importer_of, load_models
from nequip_core.errors import FileFormatError
from nequip_package.lineage import steps_from

__all__ = ["ParentPackage", "content_from", "load_parent"]

_EAGER = "eager"


@dataclass(frozen=True)
class ParentPackage:
    """A package, opened and loaded.

    Attributes:
        reader: the package.
        modes: mode -> models by name; ``eager`` first.
    """

    reader: PackageReader
    modes: dict[str, torch.nn.ModuleDict]


def load_parent(path: str | os.PathLike[str], trust_code: bool | None = None) -> ParentPackage:
    """Return a package with the models of all its modes, run by its own code, in eval mode.

    Args:
        path: a ``.nequip.zip`` file of any format that this version reads.
        trust_code: see `nequip_core.archive.loading.load_package`.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: it is no package, is damaged, or its code does not run here.
        TrustError: its code may not run.
    """
    reader = PackageReader(path)
    eager = load_opened(reader, load="snapshot", trust_code=trust_code).models
    importer = importer_of(eager)
    if importer is None:
        raise FileFormatError(f"'{reader.path}' holds models that run no code of its own")
    modes = {_EAGER: eager}
    for mode in reader.metadata.get("available_models") or [_EAGER]:
        if mode not in modes:
            modes[mode] = load_models(importer, reader, mode)
    return ParentPackage(reader, modes)


def content_from(
    parent: ParentPackage, relation: str, details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the arguments of `nequip_package.build.Content` that a parent package settles.

    Args:
        parent: the package.
        relation: how the new package comes from it.
        details: what else the lineage says.
    """
    return {
        "modes": parent.modes,
        "config": parent.reader.config,
        "source": str(parent.reader.path),
        "steps": steps_from(parent.reader, relation, details),
        "card": parent.reader.card,
    }
