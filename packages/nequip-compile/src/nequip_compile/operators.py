"""Operators that are not torch's, whose code has to get into the compiled file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nequip_core.plugins import load_plugin, plugin_names

if TYPE_CHECKING:
    import torch

__all__ = ["COMPILED_OPERATORS", "options_for_operators"]

COMPILED_OPERATORS = "nequip.compiled_operators"
"""Entry-point group: a namespace of operators -> a function ``(graph, device)`` that returns a
context manager, which yields options of Inductor that are to be used inside of it."""


@contextlib.contextmanager
def options_for_operators(program: Any, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield the options of Inductor that the operators of an exported program need.

    Operators of a namespace that nobody offers stay calls of the library that registers them, see
    ``nequip_custom_ops_libs`` in `nequip_core.compiled_metadata`.

    Args:
        program: the exported program.
        device: where the compiled file shall run.

    Raises:
        CompileError: the operators of a namespace cannot be compiled for the device.
    """
    used = {getattr(node.target, "namespace", "") for node in program.graph.nodes}
    options: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for name in plugin_names(COMPILED_OPERATORS):
            if name in used:
                offered = load_plugin(COMPILED_OPERATORS, name)
                options |= stack.enter_context(offered(program.graph, device))
        yield options
