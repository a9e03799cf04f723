"""Coupling coefficients of real spherical harmonics, in closed form.

Importing e3nn, which has them too, costs a second of start-up for every command that builds a
model; a test compares the two for all degrees up to 6.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

__all__ = ["wigner_3j"]


@lru_cache(maxsize=256)
def wigner_3j(l1: int, l2: int, l3: int) -> torch.Tensor:
    """Return the Wigner 3j symbols of real harmonics, (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), float64.

    The sum of their squares is 1. Axis m of degree l runs from -l to l; for l = 1 the components
    are y, z, x. Signs are those of e3nn. The tensor is shared: do not change it.

    Args:
        l1: degree of the first factor.
        l2: degree of the second factor.
        l3: degree of the product, ``|l1 - l2| <= l3 <= l1 + l2``.

    Raises:
        ValueError: the degrees do not couple.

    Source: Clebsch-Gordan coefficients by Racah's formula (Varshalovich, Moskalev, Khersonskii,
    "Quantum Theory of Angular Momentum", 8.2.1, equation 5), in the basis of real harmonics.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"degrees {l1}, {l2} and {l3} do not couple")
    complex_symbols = torch.zeros(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1, dtype=torch.complex128)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(-l2, l2 + 1):
            if abs(m1 + m2) <= l3:
                value = _clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2)
                complex_symbols[l1 + m1, l2 + m2, l3 + m1 + m2] = value
    symbols = torch.einsum(
        "ai,bj,ck,abc->ijk", _real_basis(l1), _real_basis(l2), _real_basis(l3).conj(),
        complex_symbols,
    ).real  # fmt: skip
    return symbols / symbols.norm()


def _clebsch_gordan(j1: int, m1: int, j2: int, m2: int, j: int, m: int) -> float:
    """Return <j1 m1 j2 m2 | j m>; the alternating sum is of exact integers."""
    f = math.factorial
    lowest = max(0, j2 - j - m1, j1 - j + m2)
    highest = min(j1 + j2 - j, j1 - m1, j2 + m2)
    total = 0
    scale = f(j1 + j2 - j) * f(j1 - m1) * f(j2 + m2) * f(j - j2 + m1 + highest)
    scale *= f(j - j1 - m2 + highest)
    for k in range(lowest, highest + 1):
        bottom = f(k) * f(j1 + j2 - j - k) * f(j1 - m1 - k) * f(j2 + m2 - k)
        bottom *= f(j - j2 + m1 + k) * f(j - j1 - m2 + k)
        total += (-1) ** k * (scale * f(highest) // bottom)
    triangle = f(j + j1 - j2) * f(j - j1 + j2) * f(j1 + j2 - j) * (2 * j + 1)
    product = f(j + m) * f(j - m) * f(j1 - m1) * f(j1 + m1) * f(j2 - m2) * f(j2 + m2)
    root = math.sqrt(triangle * product / f(j1 + j2 + j + 1))
    return root * total / (scale * f(highest))


def _real_basis(degree: int) -> torch.Tensor:
    """Return the complex harmonics in terms of the real ones, unitary, with e3nn's phase (-i)^l."""
    size = 2 * degree + 1
    real, imaginary = torch.zeros(2, size, size, dtype=torch.float64)
    half = math.sqrt(0.5)
    real[degree, degree] = 1.0
    for m in range(1, degree + 1):
        sign = (-1) ** m
        real[degree - m, degree + m] = half
        imaginary[degree - m, degree - m] = -half
        real[degree + m, degree + m] = sign * half
        imaginary[degree + m, degree - m] = sign * half
    return (-1j) ** degree * torch.complex(real, imaginary)
