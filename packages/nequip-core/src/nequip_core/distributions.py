"""Versions of installed distributions."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

__all__ = ["distribution_version", "installed_versions"]


def distribution_version(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Return name -> version of those among the distributions that are installed, in order."""
    found = {name: distribution_version(name) for name in names}
    return {name: version for name, version in found.items() if version is not None}
