"""Whether a model runs as it is written or compiles its training steps, and who decides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from nequip_core.errors import ConfigError

__all__ = [
    "COMPILE_MODES",
    "COMPILE_MODE_COMPILE",
    "COMPILE_MODE_EAGER",
    "building_in_mode",
    "get_current_compile_mode",
    "override_model_compile_mode",
    "require_compile_mode",
]

COMPILE_MODE_EAGER = "eager"
"""Run the model as it is written."""

COMPILE_MODE_COMPILE = "compile"
"""Compile the steps of training, see `nequip_model.compile_graph_model`."""

COMPILE_MODES = {COMPILE_MODE_EAGER, COMPILE_MODE_COMPILE}

_OVERRIDE: ContextVar[str | None] = ContextVar("nequip_compile_mode_override", default=None)
_CURRENT: ContextVar[str] = ContextVar("nequip_compile_mode", default=COMPILE_MODE_EAGER)


def require_compile_mode(mode: str) -> str:
    """Return the mode.

    Raises:
        ConfigError: there is no such mode.
    """
    if mode not in COMPILE_MODES:
        raise ConfigError(f"compile_mode must be one of {sorted(COMPILE_MODES)}, got {mode!r}")
    return mode


@contextlib.contextmanager
def override_model_compile_mode(compile_mode: str) -> Iterator[None]:
    """Build every model inside in this mode, whatever its ``compile_mode`` says.

    Of overrides within overrides the outermost counts.

    Args:
        compile_mode: ``eager`` or ``compile``.

    Raises:
        ConfigError: there is no such mode.
    """
    require_compile_mode(compile_mode)
    token = None if _OVERRIDE.get() is not None else _OVERRIDE.set(compile_mode)
    try:
        yield
    finally:
        if token is not None:
            _OVERRIDE.reset(token)


@contextlib.contextmanager
def building_in_mode(compile_mode: str) -> Iterator[str]:
    """Give the mode of the model being built inside: `compile_mode`, unless it is overridden.

    Raises:
        ConfigError: there is no such mode.
    """
    token = _CURRENT.set(_OVERRIDE.get() or require_compile_mode(compile_mode))
    try:
        yield _CURRENT.get()
    finally:
        _CURRENT.reset(token)


def get_current_compile_mode(return_override: bool = False) -> str | tuple[str, bool]:
    """Return the mode of the model being built, ``eager`` outside of a builder.

    Args:
        return_override: return as well whether an override decides, and inside of one its mode.
    """
    override = _OVERRIDE.get()
    mode = override or _CURRENT.get()
    return (mode, override is not None) if return_override else mode
