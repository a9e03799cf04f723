"""A repository that is a folder: ``<group>/<model>/<version>.nequip.zip``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_core.errors import ConfigError
from nequip_core.repository.names import ModelName, parse_name

__all__ = ["folder_of_address", "models_in", "newer_in", "package_path"]


def package_path(folder: Path, name: ModelName) -> Path:
    """Return where the package of a model is in a repository's folder."""
    return folder / name.group / name.model / f"{name.version}{PACKAGE_SUFFIX}"


def models_in(folder: Path) -> Iterator[tuple[ModelName, Path]]:
    """Yield every model of a repository's folder with its package, sorted by name.

    Other files, and those that lie elsewhere behind a symbolic link, are passed over.
    """
    root = folder.resolve()
    for path in sorted(root.glob(f"*/*/*{PACKAGE_SUFFIX}")):
        group, model, file = path.relative_to(root).parts
        try:
            name = parse_name(f"{group}/{model}:{file.removesuffix(PACKAGE_SUFFIX)}")
        except ConfigError:
            continue
        if path.is_file() and path.resolve().is_relative_to(root):
            yield name, path


def newer_in(folder: Path, name: ModelName) -> ModelName | None:
    """Return the newest version of a model in a repository's folder, if newer than `name`."""
    siblings = package_path(folder, name).parent
    found = []
    for path in siblings.glob(f"*{PACKAGE_SUFFIX}"):
        version = path.name.removesuffix(PACKAGE_SUFFIX)
        try:
            found.append(parse_name(f"{name.group}/{name.model}:{version}"))
        except ConfigError:
            continue
    newest = max(found, key=_order, default=name)
    return newest if _order(newest) > _order(name) else None


def folder_of_address(base: str) -> Path:
    """Return the folder of a ``file://`` address."""
    return Path(url2pathname(unquote(urlsplit(base).path)))


def _order(name: ModelName) -> tuple[int, object]:
    """Return what versions are compared by: as versions where they are, and those come last."""
    from packaging.version import InvalidVersion, Version

    try:
        return 1, Version(name.version)
    except InvalidVersion:
        return 0, name.version
