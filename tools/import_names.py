"""The name that a distribution is imported by."""

from __future__ import annotations

__all__ = ["import_name"]

# Where it is not the name of the distribution with underscores; the noxfile has the same.
_OTHERS = {"nequip-allegro": "allegro"}


def import_name(distribution: str) -> str:
    """Return the name of the module that a distribution of this repository holds."""
    return _OTHERS.get(distribution, distribution.replace("-", "_"))
