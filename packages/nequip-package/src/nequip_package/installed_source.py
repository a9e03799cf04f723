"""Where the installed source of a module lies, found without importing anything."""

from __future__ import annotations

import importlib.util
from pathlib import Path

__all__ = ["installed_source"]


def installed_source(member: str) -> Path | None:
    """Return the installed file that a file in a package corresponds to, or None.

    Args:
        member: a file below the top folder of a package, e.g. ``e3nn/o3/_irreps.py``: its first
            part names an importable module, which is located and not imported.
    """
    top, _, below = member.partition("/")
    name = top.removesuffix(".py")
    if not name.isidentifier():
        return None  # to locate a dotted name, Python imports what is before the dot
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if found is None:
        return None
    if not below:
        candidates = [Path(found.origin)] if found.origin and found.has_location else []
    else:
        candidates = [Path(folder) / below for folder in found.submodule_search_locations or ()]
    return next((path for path in candidates if path.is_file()), None)
