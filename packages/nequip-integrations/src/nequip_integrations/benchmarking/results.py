"""What a benchmark shows."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence

from nequip_integrations import drawing
from nequip_integrations.benchmarking.processes import Measurement
from nequip_integrations.text_tables import number, text_table

__all__ = ["figure", "machine", "table"]

_HEADER = (
    "way",
    "atoms",
    "pairs",
    "ms/step",
    "fastest",
    "µs/atom",
    "ns/day at 1 fs",
    "peak MB",
    "kB/atom",
)

Found = Mapping[str, Sequence[Measurement]]


def table(found: Found) -> str:
    """Return the measurements as a table, with a line for each that failed below it."""
    rows, failures = [], []
    for way, every in found.items():
        for one in every:
            if one.failure is not None:
                failures.append(f"{way}, {one.atoms} atoms: {one.failure}")
                continue
            grown = max(0.0, one.memory - one.before)
            rows.append(
                [
                    way,
                    str(one.atoms),
                    str(one.edges),
                    number(1e3 * one.seconds),
                    number(1e3 * one.fastest),
                    number(1e6 * one.seconds / one.atoms, 3),
                    number(86400e-6 / one.seconds, 3),
                    f"{one.memory / 1e6:.0f}",
                    number(grown / 1e3 / one.atoms, 3),
                ]
            )
    return "\n".join([*([text_table(_HEADER, rows)] if rows else []), *failures])


def machine(device: str) -> dict[str, str]:
    """Return where a benchmark ran."""
    import torch

    facts = {"torch": torch.__version__, "threads": str(torch.get_num_threads())}
    if device.startswith("cuda") and torch.cuda.is_available():
        facts["device"] = torch.cuda.get_device_name(torch.device(device))
    else:
        facts["device"] = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    return facts


def figure(found: Found) -> bytes:
    """Return a PNG with time and memory against the number of atoms, a curve a way."""
    drawn, (left, right) = drawing.grid(2, columns=2, width=4.4)
    for index, (way, every) in enumerate(found.items()):
        good = [one for one in every if one.failure is None]
        sizes = [one.atoms for one in good]
        color = drawing.COLORS[index % len(drawing.COLORS)]
        left.plot(sizes, [1e3 * one.seconds for one in good], "o-", color=color, label=way)
        right.plot(sizes, [one.memory / 1e6 for one in good], "o-", color=color, label=way)
    left.set(xscale="log", yscale="log")
    right.set(xscale="log")
    peaks = [one.memory for every in found.values() for one in every if one.failure is None]
    right.set_ylim(0, 1.1e-6 * max(peaks, default=1e6))
    left.legend(frameon=False, fontsize=7)
    drawing.style(left, "time of a step", "atoms", "ms")
    drawing.style(right, "peak memory of the process", "atoms", "MB")
    return drawing.png(drawn)
