"""Markdown table of a pytest-benchmark file: medians, and ratios to the reference in the same run.

pytest tests/benchmarks --benchmark-json=FILE
python tools/benchmark_table.py FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

REFERENCE = "nequip 0.19.1"
# What benchmarks note besides times -> heading, how much one unit is, unit.
EXTRAS = {
    "bytes": ("size of the file of", 1e3, "kB"),
    "cpu": ("processor time of", 1e-3, "ms"),
    "first": ("time of the first", 1.0, "s"),
    "loading": ("time to load before", 1e-3, "ms"),
    "peak": ("peak memory of", 1e6, "MB"),
}


def text(seconds: float) -> str:
    """Return a duration with three digits."""
    milli = seconds * 1e3
    return f"{milli:.3g} ms" if milli < 1000.0 else f"{milli:.0f} ms"


def who_and_what(entry: dict) -> tuple[str, str]:
    """Return who was measured, ``ours ...`` or the reference, and what else tells it apart."""
    values = {name: str(value) for name, value in (entry["params"] or {}).items()}
    who = next((v for v in values.values() if v.startswith((REFERENCE, "ours"))), "ours")
    others = [f"{name} {v}" for name, v in values.items() if v != who and v not in entry["group"]]
    return who, ", ".join(other for other in others if not other.startswith("rounds"))


def rows(content: dict) -> list[str]:
    """Return the table's lines: one for each benchmark of ours.

    Beside it stands the reference's benchmark of the same group and name, ``nequip 0.19.1 vesin``
    beside ``ours vesin``, or the fastest one of the group where there is none of that name.
    """
    groups: dict[str, dict[tuple[str, str], float]] = {}
    for entry in content["benchmarks"]:
        groups.setdefault(entry["group"], {})[who_and_what(entry)] = entry["stats"]["median"]
    lines = [f"| what | {REFERENCE} | here | ratio |", "|---|---:|---:|---:|"]
    for group, medians in groups.items():
        reference = {who: time for (who, _), time in medians.items() if who.startswith(REFERENCE)}
        for (who, what), time in medians.items():
            if who.startswith(REFERENCE):
                continue
            name = who.removeprefix("ours").strip()
            same = f"{REFERENCE} {name}".strip()
            other = reference.get(same, min(reference.values(), default=None))
            label = ", ".join(part for part in (group, name, what) if part)
            beside = "" if other is None else text(other)
            ratio = "" if other is None else f"{other / time:.2g}"
            lines.append(f"| {label} | {beside} | {text(time)} | {ratio} |")
    return lines


def extra_rows(content: dict, key: str) -> list[str]:
    """Return the table of something else that benchmarks wrote down, see `EXTRAS`, or nothing."""
    what, scale, unit = EXTRAS[key]
    found: dict[str, dict[bool, float]] = {}
    for entry in content["benchmarks"]:
        value = entry.get("extra_info", {}).get(key)
        if value is not None:
            is_reference = who_and_what(entry)[0].startswith(REFERENCE)
            found.setdefault(entry["group"], {})[is_reference] = value
    pairs = {group: values for group, values in found.items() if len(values) == 2}
    if not pairs:
        return []
    return [
        "",
        f"| {what} | {REFERENCE} | here | ratio |",
        "|---|---:|---:|---:|",
        *(
            f"| {group} | {values[True] / scale:.0f} {unit} | {values[False] / scale:.0f} {unit} "
            f"| {values[True] / values[False]:.2g} |"
            for group, values in pairs.items()
        ),
    ]


if __name__ == "__main__":
    measured = json.loads(Path(sys.argv[1]).read_text())
    more = [line for key in EXTRAS for line in extra_rows(measured, key)]
    print("\n".join([*rows(measured), *more]))
