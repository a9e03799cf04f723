"""Markdown table of a pytest-benchmark file: medians, and ratios to the reference in the same run.

pytest tests/benchmarks --benchmark-json=FILE
python tools/benchmark_table.py FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

REFERENCE = "nequip 0.19.1"


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


def size_rows(content: dict) -> list[str]:
    """Return the table of the sizes of files that benchmarks made, or nothing."""
    sizes: dict[str, dict[bool, int]] = {}
    for entry in content["benchmarks"]:
        size = entry.get("extra_info", {}).get("bytes")
        if size is not None:
            is_reference = who_and_what(entry)[0].startswith(REFERENCE)
            sizes.setdefault(entry["group"], {})[is_reference] = size
    pairs = {group: found for group, found in sizes.items() if len(found) == 2}
    if not pairs:
        return []
    return [
        "",
        f"| size of the file of | {REFERENCE} | here | ratio |",
        "|---|---:|---:|---:|",
        *(
            f"| {group} | {found[True] / 1e3:.0f} kB | {found[False] / 1e3:.0f} kB "
            f"| {found[True] / found[False]:.2g} |"
            for group, found in pairs.items()
        ),
    ]


if __name__ == "__main__":
    measured = json.loads(Path(sys.argv[1]).read_text())
    print("\n".join([*rows(measured), *size_rows(measured)]))
