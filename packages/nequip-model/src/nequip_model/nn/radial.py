"""Radial basis: Bessel functions times a polynomial cutoff."""

from __future__ import annotations

import math

import torch

from nequip_core.fields import EDGE_CUTOFF_KEY, EDGE_EMBEDDING_KEY, NORM_LENGTH_KEY

__all__ = ["BesselBasis", "polynomial_cutoff"]


def polynomial_cutoff(x: torch.Tensor, p: float) -> torch.Tensor:
    """Return the envelope u(x): 1 at 0, and 0 with two zero derivatives from x = 1 on.

    Args:
        x: r / r_cut, dimensionless.
        p: order, at least 2.

    Source: Gasteiger, Gross, Guennemann, ICLR 2020 (arXiv:2003.03123), equation 8.
    """
    power = x.pow(p)
    envelope = (
        1.0
        - (p + 1.0) * (p + 2.0) / 2.0 * power
        + p * (p + 2.0) * power * x
        - p * (p + 1.0) / 2.0 * power * x * x
    )
    return envelope * (x < 1.0).to(x.dtype)


class BesselBasis(torch.nn.Module):
    """Add ``edge_embedding`` (E, B) and ``edge_cutoff`` (E, 1), model dtype.

    B_k(r) = (2 pi / r_max^2) b_k sinc(b_k x) u(x), with x = r / r_cut, sinc(t) = sin(pi t) / (pi t)
    and b_k = k. For r_cut = r_max this is (2 / r_max) sin(k pi r / r_max) / r * u, 1 / length^2.

    Args:
        r_max: global cutoff, length.
        num_bessels: B.
        trainable: make the roots b_k trainable.
        polynomial_cutoff_p: order of the envelope.
        dtype: the model's dtype.

    Source: Gasteiger et al. 2020 (arXiv:2003.03123), equation 7.
    """

    # Whether tables stand in for the networks that read the basis: it is not computed then.
    tabulated = False

    def __init__(
        self,
        r_max: float,
        num_bessels: int,
        trainable: bool,
        polynomial_cutoff_p: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.p = float(polynomial_cutoff_p)
        self.factor = 2.0 * math.pi / (r_max * r_max)
        self.dtype = dtype
        roots = torch.linspace(1.0, num_bessels, num_bessels, dtype=torch.float64).unsqueeze(0)
        if trainable:
            self.roots = torch.nn.Parameter(roots)
        else:
            self.register_buffer("roots", roots)

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data with the radial basis."""
        if self.tabulated:
            return data
        x = data[NORM_LENGTH_KEY]
        envelope = polynomial_cutoff(x, self.p).to(self.dtype)
        bessel = (torch.sinc(x * self.roots) * self.roots).to(self.dtype)
        data[EDGE_CUTOFF_KEY] = envelope
        data[EDGE_EMBEDDING_KEY] = bessel * (envelope * self.factor)
        return data
