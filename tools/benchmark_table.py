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


def rows(content: dict) -> list[str]:
    """Return the table's lines: a row for each benchmark of ours, its group's references beside."""
    groups: dict[str, dict[str, float]] = {}
    for entry in content["benchmarks"]:
        who = str(next(iter((entry["params"] or {"build": "ours"}).values())))
        for value in (entry["params"] or {}).values():
            if str(value).startswith((REFERENCE, "ours")):
                who = str(value)
        groups.setdefault(entry["group"] or entry["name"], {})[who] = entry["stats"]["median"]
    lines = [f"| what | {REFERENCE} | here | ratio |", "|---|---:|---:|---:|"]
    for group, medians in groups.items():
        reference = {who: value for who, value in medians.items() if who.startswith(REFERENCE)}
        ours = {who: value for who, value in medians.items() if who not in reference}
        fastest = min(reference.values(), default=None)
        for who, value in ours.items():
            label = group if len(ours) == 1 else f"{group}, {who.removeprefix('ours').strip()}"
            beside = "" if fastest is None else text(fastest)
            ratio = "" if fastest is None else f"{fastest / value:.2g}"
            lines.append(f"| {label} | {beside} | {text(value)} | {ratio} |")
    return lines


if __name__ == "__main__":
    print("\n".join(rows(json.loads(Path(sys.argv[1]).read_text()))))
