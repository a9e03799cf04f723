"""What ``nequip-compile info`` prints: everything about a compiled file, without running it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nequip_core.compiled_metadata import (
    INPUTS_KEY,
    OUTPUTS_KEY,
    SCRIPT_INPUTS_KEY,
    SCRIPT_OUTPUTS_KEY,
    TF32_KEY,
    TORCHSCRIPT_SUFFIX,
    read_compiled_metadata,
    read_verification_report,
    require_compiled_metadata,
)
from nequip_core.cutoffs import cutoff_table_from_text
from nequip_core.terminal import visible

__all__ = ["information_json", "information_lines"]


def information_json(path: Path) -> str:
    """Return the metadata and the report of a compiled file as JSON text.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: the file is not a compiled model, or is damaged.
    """
    content = {
        "file": str(path),
        "mode": _mode(path),
        "bytes": path.stat().st_size,
        "metadata": _metadata(path),
        "verification": read_verification_report(path),
    }
    return json.dumps(content, indent=1)


def information_lines(path: Path) -> list[str]:
    """Return the same for people, as lines of text.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: the file is not a compiled model, or is damaged.
    """
    metadata = _metadata(path)
    rest = dict(metadata)
    script = path.name.endswith(TORCHSCRIPT_SUFFIX)
    names = rest.pop("type_names").split()
    rest.pop("num_types")
    rows = [
        ("file", f"{path} ({path.stat().st_size / 1e6:.1f} MB)"),
        ("mode", _mode(path)),
        ("device", "any" if script else rest.pop("AOTI_DEVICE_KEY", "not stated")),
        ("model dtype", rest.pop("model_dtype")),
        ("types", " ".join(names)),
        ("r_max", rest.pop("r_max")),
    ]
    table = cutoff_table_from_text(rest.pop("per_edge_type_cutoff", None), len(names))
    if table is not None:
        for name, row in zip(names, table, strict=True):
            cutoffs = " ".join(f"{other} {cut:g}" for other, cut in zip(names, row, strict=True))
            rows.append((f"cutoffs of {name}", cutoffs))
    rows.append(("TF32", "on" if rest.pop(TF32_KEY, "0") == "1" else "off"))
    inputs, outputs = (
        (SCRIPT_INPUTS_KEY, SCRIPT_OUTPUTS_KEY) if script else (INPUTS_KEY, OUTPUTS_KEY)
    )
    order = "by name" if script else "in this order"
    rows.append((f"inputs, {order}", rest.pop(inputs, "not stated")))
    rows.append((f"outputs, {order}", rest.pop(outputs, "not stated")))
    rows.append(("torch", rest.pop("nequip_torch_version", "not stated")))
    rows.append(("nequip-compile", rest.pop("nequip_compile_version", "not stated")))
    rows += [(key, value) for key, value in sorted(rest.items()) if value]
    lines = [f"{title:<24}{value}" for title, value in rows]
    lines += _report_lines(read_verification_report(path))
    return [visible(line) for line in lines]  # texts of a file of unknown origin


def _mode(path: Path) -> str:
    return "torchscript" if path.name.endswith(TORCHSCRIPT_SUFFIX) else "aotinductor"


def _metadata(path: Path) -> dict[str, str]:
    metadata = read_compiled_metadata(path)
    require_compiled_metadata(metadata, path)
    return metadata


def _report_lines(report: dict[str, Any] | None) -> list[str]:
    if report is not None and "skipped" in report:
        return [f"{'verified':<24}no: skipped by {report['skipped']}"]
    fields = _entries(report, "fields")
    if not fields:
        return [f"{'compared with eager':<24}no report in the file"]
    frames = ", ".join(_entries(report, "frames")) or "not stated"
    where = "not stated" if report is None else report.get("device", "not stated")
    lines = [f"{'compared with eager':<24}on {where}; {frames}"]
    lines += [_line(name, entry, "ok", "FAILED") for name, entry in fields.items()]
    physics = report.get("physics") if report is not None else None
    if not isinstance(physics, dict):
        return [*lines, f"{'checked by itself':<24}no: made by an older nequip-compile"]
    frames = ", ".join(_entries(physics, "frames")) or "no frame"
    lines.append(f"{'checked by itself':<24}by finite differences; {frames}")
    for name, entry in _entries(physics, "checks").items():
        title = entry.get("statement", name) if isinstance(entry, dict) else name
        lines.append(_line(str(title), entry, "holds", "DOES NOT HOLD"))
    for name, reason in _entries(physics, "not_checked").items():
        lines.append(f"  {name:<30}not checked: {reason}")
    return lines


def _entries(report: dict[str, Any] | None, key: str) -> dict[str, Any]:
    """Return a part of a report; empty where somebody has made something else of it."""
    found = None if report is None else report.get(key)
    return found if isinstance(found, dict) else {}


def _line(title: str, entry: Any, good: str, bad: str) -> str:
    if not isinstance(entry, dict):
        return f"  {title:<30}not stated"
    numbers = ", ".join(
        f"{text} {_number(entry.get(key))}"
        for key, text in (("max_error", "max error"), ("allowed", "allowed"), ("scale", "scale"))
    )
    return f"  {title:<30}{numbers}  {good if entry.get('passed') is True else bad}"


def _number(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, int | float) else "not stated"
