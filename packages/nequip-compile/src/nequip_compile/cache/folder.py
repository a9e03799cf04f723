"""The folder of the compile cache. Native code is loaded from it: it must be the user's alone."""

from __future__ import annotations

import os
from pathlib import Path

from nequip_core.archive.trust import is_private
from nequip_core.user_settings import cache_or_none

__all__ = ["CACHE_VARIABLE", "UnusableCacheError", "cache_folder", "usable_folder"]

CACHE_VARIABLE = "NEQUIP_COMPILE_CACHE"
"""Environment variable: the folder, or ``off``."""


class UnusableCacheError(Exception):
    """Compiled models cannot be kept; the text says why. Not an error for the user."""


def cache_folder() -> Path | None:
    """Return the folder of the cache, None if it is switched off.

    It is what the environment variable ``NEQUIP_COMPILE_CACHE`` says (``off`` for none), or
    ``nequip/compiled`` in the user's cache folder. It need not exist.
    """
    return cache_or_none(CACHE_VARIABLE, "compiled")


def usable_folder() -> Path | None:
    """Return the folder of the cache, made if needed; None if it is switched off.

    Raises:
        UnusableCacheError: it cannot be made or written to, or others can write to it.
    """
    folder = cache_folder()
    if folder is None:
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = is_private(folder.stat())
    except OSError as error:
        raise UnusableCacheError(
            f"'{folder}': {error.strerror or error}; set {CACHE_VARIABLE} to another folder or off"
        ) from error
    if not private:
        raise UnusableCacheError(
            f"'{folder}' is another user's, or others can write to it: chmod go-w '{folder}', or "
            f"set {CACHE_VARIABLE} to another folder or off"
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise UnusableCacheError(
            f"'{folder}' cannot be written to; set {CACHE_VARIABLE} to another folder or off"
        )
    return folder
