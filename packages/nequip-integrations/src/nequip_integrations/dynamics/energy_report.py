"""What a run was like: drift of the energy, temperature, pressure, speed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from nequip_integrations import drawing
from nequip_integrations.text_tables import number

__all__ = ["figure", "read_log", "summary", "summary_text"]


def read_log(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a log, NaN where they are empty."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {
        name: np.array([float(row[name]) if row[name] else np.nan for row in rows])
        for name in (rows[0] if rows else {})
    }


def summary(log: dict[str, np.ndarray], atoms: int, seconds: float, timestep: float) -> Any:
    """Return the numbers of a run as plain containers, None where there are none.

    Args:
        log: see `read_log`.
        atoms: number of atoms.
        seconds: of a step.
        timestep: fs.
    """
    time, conserved = log["time_ps"], log["conserved_eV"]
    found: dict[str, Any] = {
        "atoms": atoms,
        "steps": int(log["step"][-1]),
        "time_ps": float(time[-1]),
        "ns_per_day": timestep * 1e-6 * 86400 / seconds if seconds > 0 else None,
        "drift_meV_per_atom_per_ps": None,
        "largest_excursion_meV_per_atom": None,
    }
    if len(time) > 1 and np.isfinite(conserved).all():
        energies = (conserved - conserved[0]) / atoms * 1000
        found["drift_meV_per_atom_per_ps"] = float(np.polyfit(time, energies, 1)[0])
        found["largest_excursion_meV_per_atom"] = float(np.abs(energies).max())
    # The second half: the first one may still be on its way from where the run started.
    for name in ("temperature_K", "pressure_GPa", "volume_A3"):
        half = log[name][len(time) // 2 :]
        known = bool(np.isfinite(half).all()) and len(half) > 0
        found[f"mean_{name}"] = float(half.mean()) if known else None
        found[f"std_{name}"] = float(half.std()) if known else None
    return found


def summary_text(found: dict[str, Any]) -> str:
    """Return the summary for people."""
    lines = [
        f"{found['steps']} steps, {found['time_ps']:g} ps, {found['atoms']} atoms, "
        f"{number(found['ns_per_day'], 3)} ns/day"
    ]
    if found["drift_meV_per_atom_per_ps"] is not None:
        lines.append(
            f"conserved energy: drift {found['drift_meV_per_atom_per_ps']:.2g} meV/atom/ps, "
            f"largest excursion {found['largest_excursion_meV_per_atom']:.2g} meV/atom"
        )
    for name, unit in (("temperature", "K"), ("pressure", "GPa"), ("volume", "A3")):
        mean = found[f"mean_{name}_{unit}"]
        spread = found[f"std_{name}_{unit}"]
        # A volume that is held constant says nothing.
        if mean is not None and spread > 1e-9 * abs(mean):
            shown = unit.replace("A3", "Å³")
            lines.append(f"{name}: {mean:.4g} ± {spread:.2g} {shown} (second half)")
    return "\n".join(lines)


def figure(log: dict[str, np.ndarray], atoms: int) -> bytes:
    """Return a PNG of conserved energy, temperature, pressure and volume along a run."""
    time = log["time_ps"]
    panels = {"temperature (K)": log["temperature_K"]}
    if np.isfinite(log["conserved_eV"]).all():
        change = (log["conserved_eV"] - log["conserved_eV"][0]) / atoms * 1000
        panels = {"change of conserved energy (meV/atom)": change, **panels}
    for title, name in (("pressure (GPa)", "pressure_GPa"), ("volume (Å³)", "volume_A3")):
        if np.isfinite(log[name]).all() and np.ptp(log[name]) > 0:
            panels[title] = log[name]
    drawn, axes = drawing.grid(len(panels), columns=2, width=4.6)
    for axis, (label, values) in zip(axes, panels.items(), strict=True):
        axis.plot(time, values, color=drawing.COLORS[0], linewidth=1.0)
        drawing.style(axis, label.partition(" (")[0], "time (ps)", label)
    return drawing.png(drawn)
