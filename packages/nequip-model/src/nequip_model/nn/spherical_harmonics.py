"""Real spherical harmonics of edge directions."""

from __future__ import annotations

import math

import torch

from nequip_core.fields import EDGE_ATTRS_KEY, EDGE_LENGTH_KEY, EDGE_VECTORS_KEY

__all__ = ["SphericalHarmonics", "spherical_harmonics"]


def _norm(degree: int, order: int) -> float:
    """Return the factor that makes the squares of a degree's components sum to 2l+1."""
    ratio = math.factorial(degree - order) / math.factorial(degree + order)
    return math.sqrt((2 * degree + 1) * (1 if order == 0 else 2) * ratio)


def spherical_harmonics(l_max: int, directions: torch.Tensor) -> torch.Tensor:
    """Return the real spherical harmonics of unit vectors, degrees 0 to `l_max`, (E, L).

    Component normalisation: the squares of the 2l+1 components of a degree sum to 2l+1. Components
    run m = -l..l with y as the polar axis, so degree 1 is sqrt(3) (x, y, z); the convention of
    e3nn. Dimensionless.

    Args:
        l_max: highest degree.
        directions: unit vectors, (E, 3).

    Source: the recurrences of the associated Legendre functions, e.g. Abramowitz & Stegun 8.5.3,
    without the Condon-Shortley phase; their (x, y, z) are (z, x, y) here.
    """
    east, pole, north = directions.unbind(-1)
    one = torch.ones_like(pole)
    # azimuth[m] = (sin^m theta cos m phi, sin^m theta sin m phi), polynomials of east and north
    azimuth = [(one, torch.zeros_like(one))]
    for _ in range(l_max):
        cosine, sine = azimuth[-1]
        azimuth.append((north * cosine - east * sine, north * sine + east * cosine))
    # legendre[l, m] = P_l^m / sin^m theta, polynomials of pole
    legendre: dict[tuple[int, int], torch.Tensor] = {}
    for m in range(l_max + 1):
        legendre[m, m] = one * float(math.prod(range(1, 2 * m, 2)))
        if m < l_max:
            legendre[m + 1, m] = pole * legendre[m, m] * (2 * m + 1)
        for l in range(m + 2, l_max + 1):
            legendre[l, m] = (
                pole * legendre[l - 1, m] * (2 * l - 1) - legendre[l - 2, m] * (l + m - 1)
            ) / (l - m)
    components = []
    for l in range(l_max + 1):
        for m in range(-l, l + 1):
            part = azimuth[abs(m)][0 if m >= 0 else 1]
            components.append(legendre[l, abs(m)] * part * _norm(l, abs(m)))
    return torch.stack(components, dim=-1)


class SphericalHarmonics(torch.nn.Module):
    """Add ``edge_attrs``, (E, L) in the model's dtype, evaluated in float64.

    Args:
        l_max: highest degree; L = (l_max + 1)^2.
        dtype: the model's dtype.
    """

    def __init__(self, l_max: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.l_max = l_max
        self.dtype = dtype

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with ``edge_attrs``."""
        directions = data[EDGE_VECTORS_KEY] / data[EDGE_LENGTH_KEY]
        data[EDGE_ATTRS_KEY] = spherical_harmonics(self.l_max, directions).to(self.dtype)
        return data
