"""The public keys that the user accepts: one a line, base64, then whose it is.

They are in ``$XDG_DATA_HOME/nequip/accepted-keys`` (``~/.local/share/nequip/accepted-keys``), which
counts only if nobody else could have written it.
"""

from __future__ import annotations

import base64
import binascii
import logging
from pathlib import Path

from nequip_core.archive.trust import is_private
from nequip_core.errors import ConfigError
from nequip_core.files import atomic_path
from nequip_core.user_settings import user_data

__all__ = ["accept_key", "accepted_keys", "forget_key"]

_LOG = logging.getLogger(__name__)
_LARGEST = 2**20
_KEY_BYTES = 32


def accepted_keys() -> dict[str, str]:
    """Return the accepted keys, base64, with whose they are."""
    path = _path()
    try:
        found = path.stat()
        if not is_private(found) or not is_private(path.parent.stat()):
            _LOG.warning("'%s' is ignored: it is not this user's, or others can write to it", path)
            return {}
        text = path.read_text("utf-8", errors="replace") if found.st_size <= _LARGEST else ""
    except OSError:
        return {}
    lines = [line.strip().partition(" ") for line in text.splitlines()]
    return {key: owner for key, _, owner in lines if _is_key(key)}


def accept_key(key: str, owner: str = "") -> None:
    """Accept a public key: 32 bytes in base64.

    Raises:
        ConfigError: it is no such key, or the list cannot be written.
    """
    if not _is_key(key):
        raise ConfigError(f"a public key is 32 bytes in base64, got '{key[:80]}'")
    _write({**accepted_keys(), key: " ".join(owner.split())})


def forget_key(key: str) -> None:
    """Accept a key no longer.

    Raises:
        ConfigError: it was not accepted, or the list cannot be written.
    """
    known = accepted_keys()
    if key not in known:
        raise ConfigError(f"the key '{key[:80]}' is not among those that you accepted")
    del known[key]
    _write(known)


def _write(keys: dict[str, str]) -> None:
    path = _path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and not is_private(path.stat()):
            raise ConfigError(f"'{path}' is not this user's, or others can write to it: look at it")
        with atomic_path(path) as scratch:
            scratch.touch(mode=0o600)
            lines = [f"{key} {owner}".rstrip() for key, owner in sorted(keys.items())]
            scratch.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the list of accepted keys cannot be written: {error}") from error


def _path() -> Path:
    return user_data() / "accepted-keys"


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False
