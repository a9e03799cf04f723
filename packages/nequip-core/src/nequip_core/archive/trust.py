"""Consent to run the code of a file: what this user built here, and what the user says.

Packages that this user built on this machine are known by their identities, one hexadecimal SHA-256
a line in ``$XDG_DATA_HOME/nequip/built-packages`` (``~/.local/share/nequip/built-packages``). The
file counts only if nobody else could have written it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from nequip_core.archive.format import DIGEST
from nequip_core.errors import ConfigError
from nequip_core.user_settings import user_data

__all__ = [
    "TRUST_VARIABLE",
    "consent",
    "is_private",
    "is_refused",
    "is_trusted",
    "remember_built",
    "trusting",
]

TRUST_VARIABLE = "NEQUIP_TRUST_CODE"
"""Environment variable; ``1`` consents to the code of every file that the process loads."""

_LOG = logging.getLogger(__name__)
_LARGEST = 64 * 2**20  # bytes; a million packages
_TRUSTED_BY_CALLER: ContextVar[bool | None] = ContextVar("nequip_trust_code", default=None)


def consent(trust_code: bool | None, identity: str) -> bool:
    """Return whether code of the package with this identity may run.

    Args:
        trust_code: what the caller says: True consents, False refuses, None leaves it to an
            enclosing `trusting`, then to the environment variable, then to what was built here.
        identity: identity of the package, hexadecimal.

    Raises:
        ConfigError: the environment variable is neither 1 nor 0.
    """
    said = _said(trust_code)
    if said is not None:
        return bool(said)
    return _environment_consents() or is_trusted(identity)


def is_refused(trust_code: bool | None) -> bool:
    """Return whether the caller says no, so that neither environment nor origin count.

    Args:
        trust_code: see `consent`.
    """
    said = _said(trust_code)
    return said is not None and not said


@contextlib.contextmanager
def trusting(trust_code: bool | None) -> Iterator[None]:
    """Let `consent` take this answer inside, where its caller has none; None changes nothing."""
    before = _TRUSTED_BY_CALLER.get()
    token = _TRUSTED_BY_CALLER.set(before if trust_code is None else trust_code)
    try:
        yield
    finally:
        _TRUSTED_BY_CALLER.reset(token)


def is_trusted(identity: str) -> bool:
    """Return whether this user built the package with this identity on this machine."""
    return DIGEST.fullmatch(identity) is not None and identity in _known()


def remember_built(identity: str, built: str | os.PathLike[str] | None = None) -> None:
    """Add the identity of a package that was just built here.

    Where the file cannot be written, or others can write to it, a warning is logged and the package
    stays unknown: it can still be loaded, by rebuild or with consent.

    Args:
        identity: identity of the package, 64 hexadecimal digits.
        built: what was built, for the warning; default the identity.

    Raises:
        ValueError: `identity` is not one.
    """
    if not DIGEST.fullmatch(identity):
        raise ValueError(f"the identity of a package is 64 hexadecimal digits, got {identity!r}")
    path = _path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if identity in _known():
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            if is_private(os.fstat(descriptor)) and is_private(path.parent.stat()):
                # One write in append mode: lines of several processes do not mix.
                os.write(descriptor, f"{identity}\n".encode("ascii"))
            else:
                _warn_unknown(built or identity, f"others can write to '{path}'")
        finally:
            os.close(descriptor)
    except OSError as error:
        _warn_unknown(built or identity, str(error))


def _warn_unknown(built: str | os.PathLike[str], reason: str) -> None:
    _LOG.warning(
        "'%s' is not remembered as built here (%s): the code in it will not run here without "
        "consent, --trust-code or trust_code=True",
        os.fspath(built),
        reason,
    )


def _said(trust_code: bool | None) -> bool | None:
    """Return what the caller says, or an enclosing `trusting` says for it."""
    return _TRUSTED_BY_CALLER.get() if trust_code is None else trust_code


def _environment_consents() -> bool:
    text = os.environ.get(TRUST_VARIABLE, "").strip().lower()
    if text in ("1", "true", "yes"):
        return True
    if text in ("", "0", "false", "no"):
        return False
    raise ConfigError(f"environment variable {TRUST_VARIABLE} must be 1 or 0, got '{text}'")


def _path() -> Path:
    return user_data() / "built-packages"


def _known() -> set[str]:
    """Return the identities in the file; none if it is absent or others can write to it."""
    path = _path()
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return set()
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not is_private(found) or not is_private(path.parent.stat()):
            _LOG.warning("'%s' is ignored: it is not this user's, or others can write to it", path)
            return set()
        if found.st_size > _LARGEST or not stat.S_ISREG(found.st_mode):
            return set()
        return set(file.read().decode("ascii", errors="replace").split())


def is_private(found: os.stat_result) -> bool:
    """Return whether a file or folder is the user's own and nobody else can write to it."""
    if not hasattr(os, "geteuid"):
        return True  # Windows: the folder of the user's profile is the user's
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
