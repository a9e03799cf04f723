"""Compile targets that extension packages register when they are imported.

The documented form of a target is a dictionary: ``input`` and ``output`` (lists of fields in
positional order), ``data_settings`` (function from a frame to example data) and
``batch_map_settings`` (function from ``{graph, node, edge: dimension}`` to the same with what is
dynamic). A distribution written for this project offers a `CompileTarget` as an entry point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nequip_core.compile_targets import ASE, BATCH, PAIR_NEQUIP, CompileTarget
from nequip_core.errors import ConfigError
from nequip_core.fields import BATCH_KEY, NUM_NODES_KEY
from nequip_core.frames import Frame

__all__ = [
    "COMPILE_TARGET_DICT",
    "LMP_OUTPUTS",
    "PAIR_NEQUIP_INPUTS",
    "batched_data_settings",
    "register_compile_targets",
    "registered_targets",
    "single_frame_batch_map_settings",
    "single_frame_data_settings",
]

LMP_OUTPUTS = list(PAIR_NEQUIP.outputs)
PAIR_NEQUIP_INPUTS = list(PAIR_NEQUIP.inputs)


def single_frame_data_settings(data: Frame) -> Frame:
    """Return the frame without its batch fields."""
    return ASE.prepare(data)


def batched_data_settings(data: Frame) -> Frame:
    """Return a batch that holds the frame twice."""
    return BATCH.prepare(data)


def single_frame_batch_map_settings(batch_map: Mapping[str, Any]) -> dict[str, Any]:
    """Return the map of dynamic dimensions with the number of frames fixed."""
    return {**batch_map, "graph": None}


def _batched_batch_map_settings(batch_map: Mapping[str, Any]) -> dict[str, Any]:
    return dict(batch_map)


def _documented(target: CompileTarget) -> dict[str, Any]:
    """Return the documented form of a target of this project."""
    return {
        "input": list(target.inputs),
        "output": list(target.outputs),
        "batch_map_settings": (
            _batched_batch_map_settings
            if target.dynamic_frames
            else single_frame_batch_map_settings
        ),
        "data_settings": target.prepare,
    }


COMPILE_TARGET_DICT: dict[str, dict[str, Any]] = {
    target.name: _documented(target) for target in (ASE, BATCH, PAIR_NEQUIP)
}
"""Name -> target in the documented form; `register_compile_targets` adds to it."""

_OWN = frozenset(COMPILE_TARGET_DICT)


def register_compile_targets(target_dict: Mapping[str, Mapping[str, Any]]) -> None:
    """Offer further targets to ``nequip-compile --target``; the same again changes nothing.

    Args:
        target_dict: name -> target in the documented form.

    Raises:
        ConfigError: a target lacks a part, or its name is taken by a different one.
    """
    for name, target in target_dict.items():
        lacking = [part for part in ("input", "output", "data_settings") if part not in target]
        if lacking:
            raise ConfigError(f"compile target '{name}' lacks {lacking}, it has {list(target)}")
        known = COMPILE_TARGET_DICT.get(name)
        fields = ("input", "output")
        if known is not None and any(list(known[f]) != list(target[f]) for f in fields):
            raise ConfigError(f"compile target '{name}' is taken by one with other fields")
    for name, target in target_dict.items():
        if name not in _OWN:
            COMPILE_TARGET_DICT[name] = dict(target)


def registered_targets() -> dict[str, CompileTarget]:
    """Return the targets that extension packages have registered, by name."""
    return {
        name: CompileTarget(
            name=name,
            inputs=tuple(target["input"]),
            outputs=tuple(target["output"]),
            dynamic_frames=BATCH_KEY in target["input"] or NUM_NODES_KEY in target["input"],
            prepare=_copying(target["data_settings"]),
        )
        for name, target in COMPILE_TARGET_DICT.items()
        if name not in _OWN
    }


def _copying(data_settings: Callable[[Frame], Frame]) -> Callable[[Frame], Frame]:
    """Return a function that leaves the frame as it is: `data_settings` may change what it gets."""

    def prepare(frame: Frame) -> Frame:
        return data_settings(dict(frame))

    return prepare
