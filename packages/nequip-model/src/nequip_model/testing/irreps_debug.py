"""A debug mode in which every graph module checks its output against the irreps it states."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["override_irreps_debug", "set_irreps_debug"]

_HOOKS: list[Any] = []


def _check_output(module: torch.nn.Module, _inputs: Any, output: Any) -> None:
    """Raise if a field of `output` has another width than the module's ``irreps_out`` say."""
    irreps_out = getattr(module, "irreps_out", None)
    if not getattr(module, "_is_graph_module_mixin", False) or not isinstance(output, dict):
        return
    for key, irreps in dict(irreps_out or {}).items():
        if irreps is None or key not in output:
            continue
        dim, shape = getattr(irreps, "dim", None), tuple(output[key].shape)
        if dim is not None and shape[-1:] != (dim,):
            raise AssertionError(
                f"{type(module).__name__}: '{key}' has shape {shape}, but irreps_out states "
                f"{irreps} of dimension {dim}"
            )


def set_irreps_debug(enabled: bool = False) -> None:
    """Switch the debug mode on or off: a hook on every module of the process.

    While it is on, a graph module (one with the mark ``_is_graph_module_mixin``) whose output does
    not fit its ``irreps_out`` raises `AssertionError`. Switch it off before compiling.
    """
    while _HOOKS:
        _HOOKS.pop().remove()
    if enabled:
        _HOOKS.append(torch.nn.modules.module.register_module_forward_hook(_check_output))


@contextlib.contextmanager
def override_irreps_debug(enabled: bool = True) -> Iterator[None]:
    """Switch the debug mode inside, as decorator or in a ``with``, and restore it afterwards."""
    before = bool(_HOOKS)
    set_irreps_debug(enabled)
    try:
        yield
    finally:
        set_irreps_debug(before)
