"""What the environment says of repositories and of the cache; read at every use."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

from nequip_core.errors import ConfigError
from nequip_core.user_settings import user_caches

__all__ = [
    "CACHE_VARIABLE",
    "DEFAULT_REPOSITORY",
    "NO_CACHE_VARIABLE",
    "REPOSITORY_VARIABLE",
    "cache_folder",
    "is_permitted",
    "older_folders",
    "repositories",
    "uses_cache",
]

DEFAULT_REPOSITORY = "https://www.nequip.net"
REPOSITORY_VARIABLE = "NEQUIP_REPOSITORY"
"""Environment variable: base addresses, separated by spaces or commas, asked in order."""
CACHE_VARIABLE = "NEQUIP_CACHE_DIR"
"""Environment variable: folder of the cache; default ``nequip/models`` of the user's caches."""
NO_CACHE_VARIABLE = "NEQUIP_NO_CACHE"
"""Environment variable: ``1`` neither reads nor keeps models in the cache."""


def repositories() -> list[str]:
    """Return the base addresses of the repositories to ask, without final slashes.

    Raises:
        ConfigError: one is neither ``https://``, ``http://`` of this machine, nor ``file://``.
    """
    given = os.environ.get(REPOSITORY_VARIABLE, "").replace(",", " ").split()
    for base in given:
        if not (base.startswith("file:///") or is_permitted(base)):
            raise ConfigError(
                f"{REPOSITORY_VARIABLE}: '{base}' must begin with https:// or file:///, or with "
                "http:// for a server on this machine (localhost, 127.0.0.1)"
            )
    return [base.rstrip("/") for base in given] or [DEFAULT_REPOSITORY]


def is_permitted(address: str, from_address: str = "") -> bool:
    """Return whether an address may be asked: https, or http of this machine.

    Args:
        address: an absolute address.
        from_address: the address that leads to it, if one does: what came by https leads to
            https only, and never back to this machine.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or parts.username is not None:
        return False
    if parts.scheme == "https":
        return True
    before = urlsplit(from_address).scheme if from_address else "http"
    return parts.scheme == "http" and before == "http" and _is_loopback(host)


def cache_folder() -> Path:
    """Return the folder of the cache, which need not exist."""
    given = os.environ.get(CACHE_VARIABLE, "")
    if given:
        return Path(given).expanduser().absolute()
    return user_caches() / "models"


def older_folders() -> list[Path]:
    """Return the folders where the implementation nequip keeps models."""
    return [cache_folder(), Path.home() / ".nequip" / "model_cache"]


def uses_cache() -> bool:
    """Return whether models are looked for in the cache, and kept there.

    Raises:
        ConfigError: the environment variable says neither yes nor no.
    """
    text = os.environ.get(NO_CACHE_VARIABLE, "").strip().lower()
    if text in ("1", "true", "yes", "y"):
        return False
    if text in ("", "0", "false", "no", "n"):
        return True
    raise ConfigError(f"environment variable {NO_CACHE_VARIABLE} must be 1 or 0, got '{text}'")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
