"""The three figures of the demo."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from ase import units
from dynamics import DRIFT_LIMIT, Trajectory
from errors import Comparison

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the backend is chosen
from matplotlib.ticker import LogLocator, NullLocator

BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#718096"
STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.edgecolor": GREY,
    "grid.color": "#e2e8f0",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def plot_parity(comparisons: list[Comparison], file: Path) -> None:
    """Draw predictions against EMT, a panel each for energy, forces and stress."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(comparisons), figsize=(10, 3.5))
        for panel, item in zip(panels, comparisons, strict=True):
            values = np.concatenate([item.reference, item.predicted])
            margin = 0.04 * np.ptp(values)
            limits = (values.min() - margin, values.max() + margin)
            panel.plot(limits, limits, color=GREY, linewidth=0.8, zorder=1)
            dots = {"s": 9, "alpha": 0.6, "linewidths": 0, "rasterized": True}
            panel.scatter(item.reference, item.predicted, color=BLUE, zorder=2, **dots)
            panel.set(xlim=limits, ylim=limits, aspect="equal")
            panel.locator_params(nbins=5)
            panel.set_title(f"{item.name} ({item.unit})")
            panel.set_xlabel("EMT")
            label = f"MAE {item.mae:.3g}\nRMSE {item.rmse:.3g}"
            panel.text(0.05, 0.95, label, transform=panel.transAxes, va="top")
        panels[0].set_ylabel("NequIP, compiled")
        figure.savefig(file)
        plt.close(figure)


def read_metrics(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return name -> (epochs, values) of the log that the CSV logger wrote."""
    found: dict[str, list[tuple[float, float]]] = {}
    with file.open() as stream:
        for row in csv.DictReader(stream):
            for name, value in row.items():
                if value and name not in {"epoch", "step"}:
                    found.setdefault(name, []).append((float(row["epoch"]), float(value)))
    columns = {name: np.array(pairs).T for name, pairs in found.items()}
    return {name: (epochs, values) for name, (epochs, values) in columns.items()}


def plot_learning_curve(metrics_file: Path, file: Path) -> None:
    """Draw the validation errors of energy, forces and stress against the epoch."""
    metrics = read_metrics(metrics_file)
    curves = (
        ("per_atom_energy", "energy (meV/atom)", 1000.0),
        ("forces", "forces (meV/Å)", 1000.0),
        ("stress", "stress (GPa)", 1 / units.GPa),
    )
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(curves), figsize=(10, 3.2))
        for panel, (name, title, factor) in zip(panels, curves, strict=True):
            for prefix, label, color in (
                ("train_metric_epoch", "training", ORANGE),
                ("val0_epoch", "validation (averaged weights)", BLUE),
            ):
                epochs, values = metrics[f"{prefix}/{name}_mae"]
                panel.semilogy(epochs + 1, factor * values, color=color, label=label, linewidth=1.4)
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_locator(NullLocator())
            panel.set_title(title)
            panel.set_xlabel("epoch")
        panels[0].set_ylabel("mean absolute error")
        panels[0].legend(loc="upper right")
        figure.savefig(file)
        plt.close(figure)


def plot_drift(trajectory: Trajectory, file: Path) -> None:
    """Draw the total energy and the temperature against time."""
    with plt.rc_context(STYLE):
        figure, (upper, lower) = plt.subplots(
            2, 1, figsize=(7, 4.6), sharex=True, height_ratios=(2, 1)
        )
        upper.plot(trajectory.time, trajectory.total, color=BLUE, linewidth=0.8)
        low, high = trajectory.total.min(), trajectory.total.max()
        upper.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
        upper.set_title("Total energy, change since the start (meV/atom)")
        text = (
            f"drift {trajectory.drift:+.4f}, largest change {trajectory.largest_deviation:.4f} "
            f"(allowed: {DRIFT_LIMIT:g})"
        )
        upper.text(0.98, 0.94, text, transform=upper.transAxes, ha="right", va="top")
        lower.plot(trajectory.time, trajectory.temperature, color=ORANGE, linewidth=0.8)
        lower.set_title("Temperature (K)")
        lower.set_xlabel("time (ps)")
        lower.set_xlim(trajectory.time[0], trajectory.time[-1])
        figure.savefig(file)
        plt.close(figure)
