"""What the figures of all commands share. No global setting of matplotlib, an extra, changes."""

from __future__ import annotations

import io
from typing import Any

from nequip_integrations.running import require_library

__all__ = ["COLORS", "GREY", "available", "grid", "png", "require_figures", "style"]

# Distinguishable with every kind of color vision (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")
GREY, _GRID = "#718096", "#e2e8f0"
_WIDTH, _HEIGHT, _DPI = 3.8, 3.0, 130  # inches of a panel


def available() -> bool:
    """Tell whether figures can be drawn."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def require_figures(what: str) -> None:
    """Check that figures can be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require_library("matplotlib", what, "report")


def grid(count: int, columns: int = 3, width: float = _WIDTH) -> tuple[Any, list[Any]]:
    """Return a figure and `count` axes.

    Args:
        count: number of panels.
        columns: panels in a row, at most.
        width: of a panel, inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, columns)
    lines = -(-count // columns)
    figure = Figure(figsize=(width * columns, _HEIGHT * lines), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def style(axis: Any, title: str, x_label: str, y_label: str) -> None:
    """Give a panel its labels and the look that all panels have."""
    axis.set_title(title, fontsize=9, fontweight="bold", loc="left")
    axis.set_xlabel(x_label, fontsize=8)
    axis.set_ylabel(y_label, fontsize=8)
    axis.tick_params(labelsize=7, which="both")
    axis.grid(True, color=_GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(GREY)


def png(figure: Any) -> bytes:
    """Return a figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
