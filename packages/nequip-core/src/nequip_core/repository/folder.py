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
    """Yield every model of a repository's folder with its package: by name, the newest first.

    Versions before a release (``2.0rc1``) follow the releases. Other files are passed over, and
    those that lie elsewhere behind a symbolic link.
    """
    root = folder.resolve()
    found = []
    for path in root.glob(f"*/*/*{PACKAGE_SUFFIX}"):
        group, model, file = path.relative_to(root).parts
        try:
            name = parse_name(f"{group}/{model}:{file.removesuffix(PACKAGE_SUFFIX)}")
        except ConfigError:
            continue
        if path.is_file() and path.resolve().is_relative_to(root):
            found.append((name, path))
    found.sort(key=lambda item: (not _is_early(item[0]), _order(item[0])), reverse=True)
    found.sort(key=lambda item: (item[0].group, item[0].model))
    yield from found


def newer_in(folder: Path, name: ModelName) -> ModelName | None:
    """Return the newest version of a model in a repository's folder, if newer than `name`.

    A version before a release (``2.0rc1``) counts only if `name` is one itself.
    """
    siblings = package_path(folder, name).parent
    found = []
    for path in siblings.glob(f"*{PACKAGE_SUFFIX}"):
        version = path.name.removesuffix(PACKAGE_SUFFIX)
        try:
            found.append(parse_name(f"{name.group}/{name.model}:{version}"))
        except ConfigError:
            continue
    counting = [one for one in found if _is_early(name) or not _is_early(one)]
    newest = max(counting, key=_order, default=name)
    return newest if _order(newest) > _order(name) else None


def folder_of_address(base: str) -> Path:
    """Return the folder of a ``file://`` address."""
    return Path(url2pathname(unquote(urlsplit(base).path)))


def _is_early(name: ModelName) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(name.version).is_prerelease
    except InvalidVersion:
        return False


def _order(name: ModelName) -> tuple[int, object]:
    """Return what versions are compared by: as versions where they are, and those come last."""
    from packaging.version import InvalidVersion, Version

    try:
        return 1, Version(name.version)
    except InvalidVersion:
        return 0, name.version
