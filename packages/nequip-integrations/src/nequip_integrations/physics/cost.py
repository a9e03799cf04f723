"""Time and memory against size: both must grow in proportion to the number of atoms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nequip_integrations.benchmarking.processes import Measurement
from nequip_integrations.physics.lines import Line, Panel

__all__ = ["cost_lines"]

_BOUND = 1.5
"""Exponent of size, at most; 1 is proportional, 2 would be every pair of atoms. Between them there
is room for caches that overflow and for a busy machine."""


def cost_lines(found: Sequence[Measurement]) -> list[Line]:
    """Return the lines on time and memory; the first that could not be measured says why."""
    good = [one for one in found if one.failure is None]
    reasons = "; ".join(f"{one.atoms} atoms: {one.failure}" for one in found if one.failure)
    sizes = np.array([one.atoms for one in good], dtype=float)
    times = np.array([one.seconds for one in good])
    memory = np.array([one.memory for one in good])
    panels = [
        Panel("time", "atoms", "time of a step (ms)", {"": (sizes, 1e3 * times)}, logarithmic=True),
        Panel("memory", "atoms", "peak memory (MB)", {"": (sizes, memory / 1e6)}),
    ]
    numbers = ", ".join(
        f"{one.atoms} atoms {1e3 * one.seconds:.3g} ms {one.memory / 1e6:.0f} MB" for one in good
    )
    detail = f"Each size in a process of its own: {numbers}. {reasons}".strip()
    # What a process takes without any atoms is no part of the growth.
    growth = memory - (memory[0] if len(good) else 0.0)
    return [
        Line(
            "time",
            "The time of a step grows in proportion to the number of atoms.",
            _exponent(sizes, times),
            _BOUND,
            "exponent of size",
            detail,
            panels[:1],
        ),
        Line(
            "memory",
            "Memory grows in proportion to the number of atoms.",
            _exponent(sizes[1:] - sizes[:1], np.maximum(growth[1:], 1e6)),
            _BOUND,
            "exponent of size",
            reasons,
            panels[1:],
        ),
    ]


def _exponent(sizes: np.ndarray, values: np.ndarray) -> float:
    """Return the slope between the two largest sizes in a double logarithmic plot."""
    if len(sizes) < 2:
        return math.nan
    return float(np.log(values[-1] / values[-2]) / np.log(sizes[-1] / sizes[-2]))
