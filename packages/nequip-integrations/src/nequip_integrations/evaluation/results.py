"""What an evaluation shows: a table, JSON, and parity plots."""

from __future__ import annotations

from typing import Any

import numpy as np

from nequip_core.fields import FORCE_KEY, STRESS_KEY, TOTAL_ENERGY_KEY
from nequip_integrations.drawing import COLORS, GREY, grid, png, style
from nequip_integrations.evaluation.errors import ALL, QUANTITIES, Errors
from nequip_integrations.evaluation.evaluate import DIFFERENCE, Evaluation
from nequip_integrations.evaluation.prediction import BatchedModel
from nequip_integrations.text_tables import number, text_table

__all__ = ["as_json", "parity_figure", "table"]

_GPA = 160.21766208  # GPa in 1 eV/A^3, CODATA 2014 as in ASE
# Field -> unit that is shown, and its number in 1 of the unit of the field.
_SHOWN = {
    TOTAL_ENERGY_KEY: ("meV/atom", 1000.0),
    FORCE_KEY: ("meV/Å", 1000.0),
    STRESS_KEY: ("GPa", _GPA),
}
_HEADER = ("quantity", "unit", "of", "values", "MAE", "RMSE", "largest", "spread")


def table(errors: Errors) -> str:
    """Return the errors as a table; an empty text if there are none."""
    rows = []
    for field, (kind, name), sums in errors.rows():
        unit, factor = _SHOWN[field]
        group = {"all": "all", "type": name, "config_type": f"config_type {name}"}[kind]
        numbers = (sums.mae, sums.rmse, sums.largest, sums.spread)
        cells = [number(factor * value) for value in numbers]
        rows.append([QUANTITIES[field], unit, group, str(sums.count), *cells])
    return text_table(_HEADER, rows, left=3) if rows else ""


def as_json(found: Evaluation, models: list[BatchedModel], files: list[str]) -> dict[str, Any]:
    """Return everything that was found, as plain containers."""
    return {
        "models": [
            {"source": model.source, "way": model.way, "model_dtype": model.model_dtype}
            for model in models
        ],
        "files": files,
        "structures": found.structures,
        "atoms": found.atoms,
        "edges": found.edges,
        "batches": found.batches,
        "seconds": found.seconds,
        "labelled_structures": {QUANTITIES[key]: count for key, count in found.labelled.items()},
        "errors": [row for errors in found.comparisons for row in errors.as_json()],
    }


def parity_figure(found: Evaluation) -> bytes | None:
    """Return a PNG with predictions against labels, and of two models against each other.

    None where there is nothing to compare.
    """
    panels = [
        (errors, field, sums)
        for errors in found.comparisons
        for field, group, sums in errors.rows()
        if group == ALL
    ]
    if not panels:
        return None
    figure, axes = grid(len(panels), width=3.3)
    for axis, (errors, field, sums) in zip(axes, panels, strict=True):
        unit, factor = _SHOWN[field]
        # An energy per atom far from zero is read best in eV.
        if field == TOTAL_ENERGY_KEY:
            unit, factor = "eV/atom", 1.0
        elif field == FORCE_KEY:
            unit, factor = "eV/Å", 1.0
        points = sums.points * factor
        low, high = float(points.min()), float(points.max())
        margin = 0.05 * (high - low) or 1.0
        limits = (low - margin, high + margin)
        axis.plot(limits, limits, color=GREY, linewidth=0.8, zorder=1)
        _scatter(axis, errors, field, points, factor)
        axis.set(xlim=limits, ylim=limits, aspect="equal")
        axis.locator_params(nbins=5)
        shown, shown_factor = _SHOWN[field]
        text = f"MAE {sums.mae * shown_factor:.3g} {shown}\nRMSE {sums.rmse * shown_factor:.3g}"
        axis.text(0.04, 0.96, text, transform=axis.transAxes, va="top", fontsize=7)
        labels = {
            "model": ("label", "prediction"),
            "against": ("label", "prediction of the second model"),
            DIFFERENCE: ("second model", "first model"),
        }[errors.name]
        style(axis, QUANTITIES[field], *(f"{label} ({unit})" for label in labels))
    return png(figure)


def _scatter(axis: Any, errors: Errors, field: str, points: np.ndarray, factor: float) -> None:
    """Draw the points, by type or kind of structure where there are several."""
    for kind in ("type", "config_type"):
        parts = [
            (name, sums.points * factor)
            for key, (of, name), sums in errors.rows()
            if key == field and of == kind
        ]
        if 1 < len(parts) <= len(COLORS):
            break
    else:
        parts = [("", points)]
    size = sum(part.shape[1] for _, part in parts)
    for index, (name, part) in enumerate(parts):
        axis.scatter(
            *part,
            s=6,
            alpha=0.6 if size < 2000 else 0.25,
            linewidths=0,
            color=COLORS[index],
            label=name,
            zorder=2,
            rasterized=True,
        )
    if len(parts) > 1:
        axis.legend(frameon=False, fontsize=7, loc="best")
