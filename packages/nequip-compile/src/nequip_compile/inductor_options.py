"""Options of Inductor from the command line: ``key=value`` with the type that the key has."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from nequip_core.errors import ConfigError, closest

__all__ = ["CONSTANT_FOLD", "inductor_options"]

CONSTANT_FOLD = "aot_inductor.use_runtime_constant_folding"
# Compilation sets these itself.
_FORBIDDEN = ("aot_inductor.metadata", "aot_inductor.output_path")
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def inductor_options(words: Sequence[str], constant_fold: bool = False) -> dict[str, Any]:
    """Return options of `torch._inductor.config` by key.

    Args:
        words: ``key=value`` each.
        constant_fold: fold constants when the model is loaded, see `CONSTANT_FOLD`.

    Raises:
        ConfigError: a word is no such pair, a key is unknown, forbidden or there twice, or a value
            is not of the type of the key's default.
    """
    if not words and not constant_fold:
        return {}  # without torch's compiler stack, whose import takes seconds
    import torch._inductor.config as config

    known = config.get_config_copy()
    found: dict[str, Any] = {}
    for word in words:
        key, separator, text = word.partition("=")
        key = key.strip()
        if not separator or not key:
            raise ConfigError(f"--inductor-configs takes key=value, got '{word}'")
        if key in _FORBIDDEN:
            raise ConfigError(f"the Inductor option '{key}' is set by nequip-compile itself")
        if key not in known:
            raise ConfigError(f"Inductor has no option '{key}'{closest(key, list(known))}")
        if key in found:
            raise ConfigError(f"the Inductor option '{key}' is given twice")
        found[key] = _typed(key, text.strip(), known[key])
    if constant_fold:
        if CONSTANT_FOLD in found:
            raise ConfigError(f"give either --constant-fold or {CONSTANT_FOLD}, not both")
        found[CONSTANT_FOLD] = True
    return found


def _typed(key: str, text: str, default: Any) -> Any:
    """Return the value of `text`, of the type of `default`."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        value: Any = _WORDS.get(text.lower(), text)
    else:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = _WORDS.get(text.lower(), text)
    if default is None:
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        raise ConfigError(
            f"the Inductor option '{key}' is of type {type(default).__name__} "
            f"(default {default!r}), got '{text}'"
        )
    return value
