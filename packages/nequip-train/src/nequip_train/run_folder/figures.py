"""The figures of a run, drawn from the files in its folder."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nequip_core.fields import TOTAL_ENERGY_KEY
from nequip_train.run_folder.predictions import ALL_TYPES

__all__ = [
    "DPI",
    "HINT",
    "available",
    "errors_figure",
    "learning_curves",
    "parity_figure",
    "quantity",
]

HINT = (
    "figures need matplotlib: pip install 'nequip-train[report]', then nequip-train report RUN_DIR"
)

# Distinguishable with every kind of color vision (Okabe and Ito).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")
_GREY, _GRID = "#718096", "#e2e8f0"
_WIDTH, _HEIGHT = 3.6, 3.0  # inches of a panel
DPI = 140
_MOST_TYPES = 8
_MOST_PANELS = 9
# Kinds of errors that share a panel, a quantity each.
_DRAWN = {"mae": "MAE", "rmse": "RMSE"}


def available() -> bool:
    """Tell whether figures can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def learning_curves(
    rows: Sequence[Mapping[str, Any]], units: Mapping[str, str], steps_per_epoch: float | None
) -> bytes | None:
    """Return a PNG of losses, errors and learning rate against the epoch, None without values.

    Args:
        rows: rows of ``metrics.jsonl``.
        units: unit of a metric by its name.
        steps_per_epoch: number of steps of an epoch, if known: step values then have a place
            within their epoch.
    """
    panels = _curve_panels(rows, steps_per_epoch)
    if not panels:
        return None
    from matplotlib.ticker import MaxNLocator

    figure, axes = _grid(len(panels))
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        for number, (label, (epochs, values)) in enumerate(curves.items()):
            color = _COLORS[number % len(_COLORS)]
            faint = label.endswith("(step)")
            marker = "." if len(epochs) < 40 and not faint else ""
            axis.plot(
                epochs,
                values,
                color=_GREY if faint else color,
                linewidth=0.6 if faint else 1.3,
                alpha=0.6 if faint else 1.0,
                marker=marker,
                label=label,
                zorder=1 if faint else 2,
            )
        every = np.concatenate([values for _, values in curves.values()])
        if (every > 0).all() and every.max() > 10 * every.min():
            axis.set_yscale("log")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        unit = next((units[f"{title}_{kind}"] for kind in _DRAWN if f"{title}_{kind}" in units), "")
        _style(axis, f"{title} ({unit})" if unit else title, "epoch", "")
        if len(curves) > 1:
            axis.legend(frameon=False, fontsize=7)
    return _png(figure)


def _curve_panels(
    rows: Sequence[Mapping[str, Any]], steps_per_epoch: float | None
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return panel title -> curve label -> epochs and values."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        for name, value in row.items():
            place = _place(name)
            no_place = row.get("step") is None or row.get("stage") is not None
            if place is None or value is None or no_place:
                continue
            title, label = place
            step = row["step"] + 1
            epoch = step / steps_per_epoch if steps_per_epoch else float(row.get("epoch") or 0) + 1
            found.setdefault(title, {}).setdefault(label, []).append((epoch, float(value)))
    if "per_atom_energy" in found:
        found.pop(TOTAL_ENERGY_KEY, None)
    first = ("loss", "weighted sum of metrics")
    order = sorted(found, key=lambda title: (title not in first, title == "learning rate", title))
    shown = order[: _MOST_PANELS - 1] if len(order) > _MOST_PANELS else order
    if "learning rate" in found and "learning rate" not in shown:
        shown.append("learning rate")
    return {
        title: {label: tuple(np.array(points).T) for label, points in sorted(found[title].items())}  # type: ignore[misc]
        for title in shown
    }


def _place(name: str) -> tuple[str, str] | None:
    """Return panel and curve of a logged name, None for those that are not drawn."""
    if name == "lr":
        return "learning rate", "learning rate"
    stage, slash, metric = name.partition("/")
    if not slash or stage.startswith("test"):
        return None
    if metric == "weighted_sum":
        labels = {"train_loss_step": "training (step)", "train_loss_epoch": "training"}
        if stage in labels:
            return "loss", labels[stage]
        # Of the validation metrics: not the loss, though it has the same name.
        return ("weighted sum of metrics", _label(stage)) if stage.endswith("_epoch") else None
    quantity, _, kind = metric.rpartition("_")
    is_loss = stage.startswith("train_loss") or not stage.endswith("_epoch")
    if is_loss or kind not in _DRAWN:
        return None
    return quantity, f"{_label(stage)} {_DRAWN[kind]}"


def _label(stage: str) -> str:
    name = stage.removesuffix("_epoch").replace("train_metric", "training")
    if name == "val0":
        return "validation"
    return name.replace("val", "validation ") if name.startswith("val") else name


def parity_figure(
    samples: Mapping[str, np.ndarray],
    field: str,
    unit: str,
    errors: Mapping[str, Mapping[str, Any]],
) -> bytes:
    """Return a PNG of predictions against labels, a panel a type, of one field.

    Args:
        samples: labels and predictions, shape (2, n), by type.
        field: name of the field.
        unit: unit of the values.
        errors: a row of ``errors.json`` by type.
    """
    shown = _shown_types(samples)
    figure, axes = _grid(len(shown))
    for number, (axis, name) in enumerate(zip(axes, shown, strict=False)):
        labels, predictions = samples[name]
        low = float(min(labels.min(), predictions.min()))
        high = float(max(labels.max(), predictions.max()))
        margin = 0.04 * (high - low) or 1.0
        limits = (low - margin, high + margin)
        axis.plot(limits, limits, color=_GREY, linewidth=0.8, zorder=1)
        axis.scatter(
            labels,
            predictions,
            s=6,
            alpha=0.5 if len(labels) < 2000 else 0.2,
            linewidths=0,
            color=_COLORS[number % len(_COLORS)],
            zorder=2,
            rasterized=True,
        )
        axis.set(xlim=limits, ylim=limits, aspect="equal")
        axis.locator_params(nbins=5)
        row = errors[name]
        text = f"MAE {row['mae']:.3g}\nRMSE {row['rmse']:.3g}\nn {row['count']}"
        axis.text(0.04, 0.96, text, transform=axis.transAxes, va="top", fontsize=7)
        title = quantity(field) if name == ALL_TYPES else f"{quantity(field)} of {name}"
        shown_unit = f" ({unit})" if unit else ""
        _style(axis, title, f"label{shown_unit}", f"prediction{shown_unit}")
    return _png(figure)


def errors_figure(samples: Mapping[str, np.ndarray], field: str, unit: str) -> bytes:
    """Return a PNG with the histogram of the errors of one field, a line a type."""
    figure, axes = _grid(1)
    axis = axes[0]
    shown = _shown_types(samples)
    errors = {name: samples[name][1] - samples[name][0] for name in shown}
    every = np.abs(np.concatenate(list(errors.values())))
    # Wide enough for all but a few outliers, which are counted in the outermost bins.
    reach = float(np.quantile(every, 0.995)) or float(every.max()) or 1.0
    bins = int(np.clip(np.sqrt(every.size), 10, 60))
    edges = np.linspace(-reach, reach, bins + 1)
    for number, name in enumerate(shown):
        clipped = np.clip(errors[name], -reach, reach)
        share = np.histogram(clipped, bins=edges)[0] / len(clipped)
        label = "all types" if name == ALL_TYPES and len(shown) > 1 else name
        axis.stairs(
            share,
            edges,
            color=_COLORS[number % len(_COLORS)],
            linewidth=1.4 if name == ALL_TYPES else 1.0,
            fill=name == ALL_TYPES,
            alpha=0.35 if name == ALL_TYPES else 1.0,
            label=label,
        )
    axis.locator_params(axis="x", nbins=5)
    if len(shown) > 1:
        axis.legend(frameon=False, fontsize=7)
    shown_unit = f" ({unit})" if unit else ""
    _style(axis, f"errors of {quantity(field)}", f"prediction - label{shown_unit}", "share")
    return _png(figure)


def quantity(field: str) -> str:
    """Return what a field is called where its values are shown."""
    return "energy per atom" if field == TOTAL_ENERGY_KEY else field.replace("_", " ")


def _shown_types(samples: Mapping[str, np.ndarray]) -> list[str]:
    """Return all types together, then those with most values."""
    names = [name for name in samples if name != ALL_TYPES and samples[name].size]
    names.sort(key=lambda name: -samples[name].shape[1])
    return [ALL_TYPES, *names[:_MOST_TYPES]]


def _grid(count: int) -> tuple[Any, list[Any]]:
    """Return a figure and its axes, up to three a row; global settings stay as they are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 3)
    lines = -(-count // columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * lines), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _style(axis: Any, title: str, x_label: str, y_label: str) -> None:
    axis.set_title(title, fontsize=9, fontweight="bold", loc="left")
    axis.set_xlabel(x_label, fontsize=8)
    axis.set_ylabel(y_label, fontsize=8)
    axis.tick_params(labelsize=7, which="both")
    axis.grid(True, color=_GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(_GREY)


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
