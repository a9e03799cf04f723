"""``report.html``: everything about a run on one page that needs nothing else.

Made from the files in the folder of a run alone, so it can be made at any time: while the run goes
on, after it was killed, and on another machine.
"""

from __future__ import annotations

import base64
import html
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nequip_core.errors import FileFormatError, MissingFileError
from nequip_core.files import atomic_path
from nequip_train.run_folder import figures
from nequip_train.run_folder.figures import DPI
from nequip_train.run_folder.metrics_files import read_metrics
from nequip_train.run_folder.predictions import ALL_TYPES, ERRORS_FILE, SAMPLES_FILE
from nequip_train.run_folder.record import CONFIG_FILE, RUN_FILE
from nequip_train.run_folder.throughput import duration

__all__ = ["FIGURES_FOLDER", "REPORT_FILE", "write_report"]

_LOG = logging.getLogger(__name__)
REPORT_FILE = "report.html"
FIGURES_FOLDER = "figures"
_SCREEN_DPI = 100
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a202c; max-width: 1100px; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: 0.2em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; margin: 0.6em 0; }
td, th { padding: 0.25em 0.8em; border-bottom: 1px solid #e2e8f0; text-align: right; }
td:first-child, th:first-child, .facts td { text-align: left; }
th { color: #4a5568; font-weight: 600; }
img { max-width: 100%; height: auto; vertical-align: top; margin: 0.4em 0.8em 0.4em 0; }
pre { background: #f7fafc; padding: 0.8em; overflow-x: auto; font-size: 12px; line-height: 1.35; }
.note { color: #4a5568; }
"""


def write_report(folder: Path) -> Path:
    """Write ``report.html`` and the figures of a run; return the report's path.

    Args:
        folder: the folder of the run.

    Raises:
        MissingFileError: there is no such folder.
        FileFormatError: no run has written to it.
    """
    if not folder.is_dir():
        raise MissingFileError(f"no folder of a run at '{folder}': there is no such folder")
    record = _json(folder / RUN_FILE)
    if not record:
        raise FileFormatError(
            f"'{folder}' is not the folder of a run: it has no {RUN_FILE}; name the folder that "
            "holds the run's train.log"
        )
    rows = read_metrics(folder)
    errors = _json(folder / ERRORS_FILE)
    drawn = _draw(folder, record, rows, errors) if figures.available() else {}
    for name, image in drawn.items():
        with atomic_path(folder / FIGURES_FOLDER / f"{name}.png") as file:
            file.write_bytes(image)
    with atomic_path(folder / REPORT_FILE) as file:
        file.write_text(_page(folder, record, rows, errors, drawn))
    if not figures.available():
        _LOG.warning(figures.HINT)
    return folder / REPORT_FILE


def _json(file: Path) -> dict[str, Any]:
    """Return the content of a file of ours, nothing if it is missing or damaged."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _draw(
    folder: Path,
    record: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    errors: Mapping[str, Any],
) -> dict[str, bytes]:
    """Return PNG by name."""
    drawn: dict[str, bytes] = {}
    curves = figures.learning_curves(
        rows, record.get("metric_units") or {}, record.get("steps_per_epoch")
    )
    if curves is not None:
        drawn["learning_curves"] = curves
    by_field: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in errors.get("errors") or ():
        by_field.setdefault((row["dataset"], row["field"]), {})[row["type"]] = row
    file = folder / SAMPLES_FILE
    if not by_field or not file.exists():
        return drawn
    with np.load(file, allow_pickle=False) as arrays:
        for (dataset, field), numbers in by_field.items():
            samples = {name: arrays[f"{dataset}|{field}|{name}"] for name in numbers}
            unit = str(numbers[ALL_TYPES]["unit"])
            drawn[f"parity_{dataset}_{field}"] = figures.parity_figure(
                samples, field, unit, numbers
            )
            drawn[f"errors_{dataset}_{field}"] = figures.errors_figure(samples, field, unit)
    return drawn


def _page(
    folder: Path,
    record: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    errors: Mapping[str, Any],
    drawn: Mapping[str, bytes],
) -> str:
    title = html.escape(f"Training run {folder.resolve().name}")
    parts = [f"<h1>{title}</h1>", _summary(record, rows)]
    table = errors.get("errors") or []
    if table:
        parts += ["<h2>Errors</h2>", _errors_table(table), _errors_note(errors)]
    results = record.get("results") or {}
    if results:
        parts += ["<h2>Metrics of validation and test</h2>", _results_table(results)]
    if not drawn and not figures.available():
        parts.append(f'<p class="note">{html.escape(figures.HINT)}</p>')
    if "learning_curves" in drawn:
        parts += ["<h2>Learning curves</h2>", _image(drawn["learning_curves"], "learning curves")]
    for name, image in drawn.items():
        if name.startswith("parity_"):
            dataset, _, field = name.removeprefix("parity_").partition("_")
            what = f"{dataset}: {figures.quantity(field)}"
            parts += [
                f"<h2>{html.escape(what)}</h2>",
                _image(image, f"parity of {what}"),
                _image(drawn[name.replace("parity_", "errors_", 1)], f"errors of {what}"),
            ]
    parts += ["<h2>Versions</h2>", _table(("", "version"), (record.get("versions") or {}).items())]
    config = folder / CONFIG_FILE
    if config.exists():
        text = html.escape(config.read_text())
        parts += [
            "<h2>Config</h2>",
            f"<details><summary>resolved</summary><pre>{text}</pre></details>",
        ]
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _summary(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of what happened."""
    lines: list[tuple[str, str]] = [("status", str(record.get("status", "unknown")))]
    sessions = record.get("sessions") or []
    if sessions:
        lines.append(("started", sessions[0]["started"]))
        lines.append(("ended", str(sessions[-1].get("ended") or "")))
        seconds = sum(session.get("seconds") or 0.0 for session in sessions)
        lines.append(("time", f"{duration(seconds)} in {len(sessions)} session(s)"))
    rows = [row for row in rows if row.get("stage") is None]
    epochs = [row["epoch"] for row in rows if row.get("epoch") is not None]
    steps = [row["step"] for row in rows if row.get("step") is not None]
    if epochs:
        lines.append(("epochs, steps", f"{int(max(epochs)) + 1}, {int(max(steps)) + 1}"))
    speeds = [row["atoms_per_s"] for row in rows if row.get("atoms_per_s")]
    if speeds:
        edges = [row["edges_per_s"] for row in rows if row.get("edges_per_s")]
        text = f"{np.median(speeds):.4g} atoms/s"
        if edges:
            text += f", {np.median(edges):.4g} edges/s (median of the epochs)"
        lines.append(("throughput", text))
    for key in ("parameters", "model", "device", "best_checkpoint"):
        if record.get(key):
            lines.append((key.replace("_", " "), str(record[key])))
    if record.get("message"):
        lines.append(("message", str(record["message"])))
    return _table(("", ""), lines).replace("<table>", '<table class="facts">', 1)


def _errors_table(rows: Iterable[Mapping[str, Any]]) -> str:
    header = ("data, field, type", "unit", "values", "MAE", "RMSE", "largest", "spread of labels")
    cells = [
        (
            f"{row['dataset']} {figures.quantity(row['field'])} {row['type']}",
            row["unit"],
            row["count"],
            *(f"{row[key]:.4g}" for key in ("mae", "rmse", "largest", "spread")),
        )
        for row in rows
    ]
    return _table(header, cells)


def _errors_note(errors: Mapping[str, Any]) -> str:
    frames = ", ".join(f"{count} frames of {name}" for name, count in errors["frames"].items())
    note = (
        f"Of {frames}. The spread, the standard deviation of the labels, is the RMSE of "
        "predicting their mean."
    )
    if errors.get("processes", 1) > 1:
        note += f" The share of one of {errors['processes']} processes; the metrics are of all."
    return f'<p class="note">{html.escape(note)}</p>'


def _results_table(results: Mapping[str, Mapping[str, float]]) -> str:
    names = sorted({name for values in results.values() for name in values})
    cells = [
        (name, *(f"{v[name]:.6g}" if v.get(name) is not None else "" for v in results.values()))
        for name in names
    ]
    return _table(("metric", *results), cells)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def line(cells: Iterable[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    top = line(header, "th") if any(header) else ""
    return f"<table>{top}{''.join(line(row, 'td') for row in rows)}</table>"


def _image(png: bytes, text: str) -> str:
    data = base64.b64encode(png).decode()
    # Eight bytes of signature, four of length, four of type: then the width of a PNG.
    width = round(int.from_bytes(png[16:20], "big") * _SCREEN_DPI / DPI)
    return f'<img alt="{html.escape(text)}" width="{width}" src="data:image/png;base64,{data}">'
