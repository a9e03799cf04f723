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
    # Texts of a file of unknown origin: a terminal obeys control characters.
    return [line if line.isprintable() else ascii(line)[1:-1] for line in lines]


def _mode(path: Path) -> str:
    return "torchscript" if path.name.endswith(TORCHSCRIPT_SUFFIX) else "aotinductor"


def _metadata(path: Path) -> dict[str, str]:
    metadata = read_compiled_metadata(path)
    require_compiled_metadata(metadata, path)
    return metadata


def _report_lines(report: dict[str, Any] | None) -> list[str]:
    fields = {} if report is None else report.get("fields")
    if report is None or not isinstance(fields, dict) or not fields:
        return ["compared with eager     no report in the file"]
    frames = report.get("frames")
    titles = ", ".join(frames) if isinstance(frames, dict) else "not stated"
    lines = [f"{'compared with eager':<24}on {report.get('device')}; {titles}"]
    for name, entry in fields.items():
        if isinstance(entry, dict):
            passed = "ok" if entry.get("passed") is True else "FAILED"
            lines.append(
                f"  {name:<22}max error {_number(entry.get('max_error'))}, allowed "
                f"{_number(entry.get('allowed'))}, scale {_number(entry.get('scale'))}  {passed}"
            )
    return lines


def _number(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, int | float) else "not stated"
