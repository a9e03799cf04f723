"""The name that a distribution is imported by."""

from __future__ import annotations

from pathlib import Path

__all__ = ["import_name"]

_PACKAGES = Path(__file__).parents[1] / "packages"


def import_name(distribution: str) -> str:
    """Return the name of the module that a distribution of this repository holds."""
    (version,) = (_PACKAGES / distribution / "src").glob("*/_version.py")
    return version.parent.name
