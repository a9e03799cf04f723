"""What the user's environment says: where caches and data are, and what is switched off."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_or_none", "says_off", "user_caches", "user_data"]

_OFF = ("0", "false", "no", "off")


def says_off(text: str) -> bool:
    """Return whether the value of an environment variable switches something off."""
    return text.strip().casefold() in _OFF


def user_caches() -> Path:
    """Return ``nequip`` in ``$XDG_CACHE_HOME`` (``~/.cache``), which need not exist.

    Raises:
        RuntimeError: the user has no home, as in some containers.
    """
    return _base("XDG_CACHE_HOME", ".cache") / "nequip"


def user_data() -> Path:
    """Return ``nequip`` in ``$XDG_DATA_HOME`` (``~/.local/share``), which need not exist.

    Raises:
        RuntimeError: the user has no home, as in some containers.
    """
    return _base("XDG_DATA_HOME", ".local/share") / "nequip"


def cache_or_none(variable: str, name: str) -> Path | None:
    """Return the folder of a cache, which need not exist; None if it is switched off.

    It is off, too, for a user without a home.

    Args:
        variable: environment variable that holds the folder; empty or, for instance, ``off`` means
            none.
        name: of the folder in `user_caches` where the variable is not set.
    """
    given = os.environ.get(variable)
    if given is not None:
        off = not given.strip() or says_off(given)
        return None if off else Path(given).expanduser()
    try:
        return user_caches() / name
    except RuntimeError:
        return None


def _base(variable: str, default: str) -> Path:
    given = os.environ.get(variable, "")
    # The XDG specification: relative paths are invalid and are ignored.
    return Path(given) if Path(given).is_absolute() else Path.home() / default
