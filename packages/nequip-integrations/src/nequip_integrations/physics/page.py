"""The report as one page of HTML that needs nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

from nequip_integrations import drawing
from nequip_integrations.physics.lines import Line, Panel

__all__ = ["NO_PLOTS", "page"]

NO_PLOTS = "plots need matplotlib: pip install 'nequip-integrations[report]'"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a202c; max-width: 1000px; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: 0.2em; } h2 { font-size: 1.1em; margin: 2em 0 0.2em; }
table { border-collapse: collapse; margin: 0.8em 0; width: 100%; }
td, th { padding: 0.3em 0.7em; border-bottom: 1px solid #e2e8f0; text-align: left;
         vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { color: #4a5568; font-weight: 600; }
.facts td:first-child { color: #4a5568; white-space: nowrap; }
.pass, .fail { font-weight: 600; white-space: nowrap; }
.pass { color: #276749; } .fail { color: #c53030; }
img { max-width: 100%; height: auto; margin: 0.3em 0; }
.note { color: #4a5568; margin: 0.2em 0; }
"""


def page(title: str, facts: Mapping[str, str], lines: Sequence[Line]) -> str:
    """Return the page.

    Args:
        title: what is graded.
        facts: what to say of the model and the structure.
        lines: the graded lines.
    """
    failed = [line.name for line in lines if not line.passes]
    verdict = (
        f'<p class="fail">{len(failed)} of {len(lines)} lines fail: {_text(", ".join(failed))}</p>'
        if failed
        else f'<p class="pass">All {len(lines)} lines pass.</p>'
    )
    rows = "".join(_row(line) for line in lines)
    table = "".join(f"<tr><td>{_text(a)}</td><td>{_text(b)}</td></tr>" for a, b in facts.items())
    note = "" if drawing.available() else f'<p class="note">{_text(NO_PLOTS)}</p>'
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Physics of {_text(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>Physics of {_text(title)}</h1>{verdict}{note}\n"
        f'<table class="facts">{table}</table>\n'
        '<table><tr><th>line</th><th>claim</th><th class="number">value</th>'
        f'<th class="number">bound</th><th>result</th></tr>{rows}</table>\n'
        + "\n".join(_section(line) for line in lines)
        + "\n</body></html>\n"
    )


def _row(line: Line) -> str:
    result = "pass" if line.passes else "fail"
    mark = "✓ pass" if line.passes else "✗ fail"
    return (
        f'<tr><td><a href="#{_anchor(line)}">{_text(line.name)}</a></td><td>{_text(line.claim)}'
        f'</td><td class="number">{line.value:.2g}</td><td class="number">{line.bound:.2g}</td>'
        f'<td class="{result}">{mark}</td></tr>'
    )


def _section(line: Line) -> str:
    image = ""
    if line.panels and drawing.available():
        encoded = base64.b64encode(_figure(line.panels)).decode("ascii")
        image = f'<img alt="{_text(line.name)}" src="data:image/png;base64,{encoded}">'
    unit = f" {_text(line.unit)}" if line.unit else ""
    return (
        f'<h2 id="{_anchor(line)}">{_text(line.name)}</h2>'
        f'<p class="note">{_text(line.detail)} Value {line.value:.3g}, bound {line.bound:.3g}'
        f"{unit}.</p>{image}"
    )


def _figure(panels: Sequence[Panel]) -> bytes:
    """Return a PNG of the panels of one line."""
    figure, axes = drawing.grid(len(panels), columns=2, width=4.6)
    for axis, panel in zip(axes, panels, strict=True):
        for number, (name, (x, y)) in enumerate(panel.curves.items()):
            color = drawing.COLORS[number % len(drawing.COLORS)]
            if name == "components":
                axis.plot(x, y, ".", color=drawing.COLORS[1], markersize=4)
            else:
                marker = "o" if len(x) < 20 and len(panel.curves) == 1 else ""
                axis.plot(x, y, color=color, linewidth=1.2, label=name, marker=marker, markersize=4)
        if panel.logarithmic:
            axis.set(xscale="log", yscale="log")
        if panel.y_range is not None:
            axis.set_ylim(*panel.y_range)
        drawing.style(axis, panel.title, panel.x_label, panel.y_label)
        if len([name for name in panel.curves if name and name != "components"]) > 1:
            axis.legend(frameon=False, fontsize=7)
    return drawing.png(figure)


def _anchor(line: Line) -> str:
    return line.name.replace(" ", "-")


def _text(text: object) -> str:
    return html.escape(str(text))
