"""Lines of a graded report: a claim, a measured value, and the bound that it must keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Line", "Panel"]


@dataclass(frozen=True)
class Panel:
    """A plot: curves by name."""

    title: str
    x_label: str
    y_label: str
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]]
    logarithmic: bool = False
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """One claim about a model, graded."""

    name: str
    claim: str
    """What must hold, in one sentence."""
    value: float
    """What was measured; not a number where that was not possible."""
    bound: float
    """What the value must not exceed."""
    unit: str = ""
    detail: str = ""
    """How it was measured, in a sentence or two."""
    panels: Sequence[Panel] = field(default_factory=tuple)

    @property
    def passes(self) -> bool:
        """Whether the claim holds; a value that is not a number does not."""
        return math.isfinite(self.value) and bool(self.value <= self.bound)

    def as_json(self) -> dict[str, Any]:
        """Return everything but the plots; what is not a number is None."""
        return {
            "name": self.name,
            "claim": self.claim,
            "passes": self.passes,
            "value": float(self.value) if math.isfinite(self.value) else None,
            "bound": float(self.bound),
            "unit": self.unit,
            "detail": self.detail,
        }
