"""Errors of the compiled model on the test frames, as numbers and as tables."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import units
from ase.calculators.calculator import Calculator
from ase.io import read


@dataclass(frozen=True)
class Comparison:
    """One quantity of all test frames: what EMT says and what the model predicts."""

    name: str
    unit: str
    reference: np.ndarray
    predicted: np.ndarray

    @property
    def mae(self) -> float:
        """Mean absolute error."""
        return float(np.abs(self.predicted - self.reference).mean())

    @property
    def rmse(self) -> float:
        """Root mean square error."""
        return float(np.sqrt(np.square(self.predicted - self.reference).mean()))

    @property
    def worst(self) -> float:
        """Largest absolute error."""
        return float(np.abs(self.predicted - self.reference).max())

    @property
    def spread(self) -> float:
        """Standard deviation of the reference values: the error of predicting their mean."""
        return float(self.reference.std())

    @property
    def statistics(self) -> tuple[float, float, float, float]:
        """The numbers of one table row, in the order of `HEADER`."""
        return self.mae, self.rmse, self.worst, self.spread


def compare(test_file: Path, calculator: Calculator) -> list[Comparison]:
    """Return energy per atom, forces and stress of the frames in `test_file`, twice each."""
    names = ("energy", "forces", "stress")
    rows: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {name: ([], []) for name in names}
    for frame in read(test_file, index=":"):
        for atoms, column in ((frame, 0), (frame.copy(), 1)):
            if column == 1:
                atoms.calc = calculator
            energy = 1000 * atoms.get_potential_energy() / len(atoms)
            rows["energy"][column].append(np.array([energy]))
            rows["forces"][column].append(1000 * atoms.get_forces().ravel())
            rows["stress"][column].append(atoms.get_stress(voigt=False).ravel() / units.GPa)
    unit = {"energy": "meV/atom", "forces": "meV/Å", "stress": "GPa"}
    return [
        Comparison(name, unit[name], *(np.concatenate(column) for column in rows[name]))
        for name in names
    ]


HEADER = ("quantity", "unit", "MAE", "RMSE", "largest", "spread of the data")


def table_rows(comparisons: list[Comparison]) -> list[tuple[str, ...]]:
    """Return the cells of the table below `HEADER`."""
    return [
        (item.name, item.unit, *(f"{value:.4g}" for value in item.statistics))
        for item in comparisons
    ]


def markdown_table(comparisons: list[Comparison]) -> str:
    """Return the errors as a Markdown table."""
    lines = [HEADER, ("---", "---", "---:", "---:", "---:", "---:"), *table_rows(comparisons)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_csv(comparisons: list[Comparison], file: Path) -> None:
    """Write the errors as CSV."""
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([HEADER, *table_rows(comparisons)])
