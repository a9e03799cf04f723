"""Radial networks as tables, for inference: piecewise polynomials in the distance."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from nequip_core.fields import EDGE_EMBEDDING_KEY, NORM_LENGTH_KEY
from nequip_model.nn.mlp import ScalarMLP
from nequip_model.nn.radial import BesselBasis

__all__ = ["RadialTable", "radial_table"]

# Distances at which the functions are chosen, and from each interval at which they are verified.
_SAMPLES = 512
_PROBES = (0.11, 0.37, 0.5, 0.73, 0.94)
_MOST_INTERVALS = 2048
# Closer to zero the second derivative of sin(x) / x is rounding.
_NEAR_ZERO = 1e-4


class RadialTable(torch.nn.Module):
    """w(x) = b(x) U for x = r / r_cut: R functions b, polynomials of degree 5 in each interval.

    Values, slopes and curvatures are those of the network at the ends of each interval, so the
    functions are twice continuously differentiable; their derivatives by autograd are exactly
    those of the tabulated values. From x = 1 on they are zero.

    Args:
        ends: values, slopes and curvatures of b at the ends of n equal intervals of [0, 1], the
            interval being the unit of length, (n + 1, 3, R).
        matrix: U, (R, W).
        dtype: of the table's results.
    """

    def __init__(self, ends: torch.Tensor, matrix: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.intervals = ends.shape[0] - 1
        self.error = math.inf
        self.register_buffer("coefficients", _quintic(ends).to(dtype), persistent=False)
        self.register_buffer("matrix", matrix.to(dtype), persistent=False)
        self.register_buffer("rows", (ends @ matrix).flatten(0, 1).to(dtype), persistent=False)
        self.coefficients: torch.Tensor
        self.matrix: torch.Tensor
        self.rows: torch.Tensor
        """The same at the ends for the weights themselves, (3 (n + 1), W), for kernels."""

    def places(self, x: torch.Tensor) -> torch.Tensor:
        """Return normed lengths (E, 1), float64, in intervals, (E,).

        Raises:
            RuntimeError: the module is in training mode.
        """
        if self.training:
            raise RuntimeError(
                "a model with radial tables is for inference: the tables do not follow the weights "
                "of the radial networks; train without the modifier enable_RadialTable"
            )
        return x.squeeze(1) * self.intervals

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return b (E, R) and U (R, W) at normed lengths (E, 1), float64.

        Raises:
            RuntimeError: the module is in training mode.
        """
        places = self.places(x)
        left = places.detach().floor().clamp(0, self.intervals - 1)
        t = (places - left).to(self.coefficients.dtype).unsqueeze(1)
        rows = self.coefficients.index_select(0, left.to(torch.int64))
        value = rows[:, 5]
        for power in (4, 3, 2, 1, 0):
            value = value * t + rows[:, power]
        return value * (x < 1.0).to(value.dtype), self.matrix

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """Refuse other weights for the networks that the table was made of."""
        arguments[-1].append(
            "the radial tables were made of other weights; load the weights first, and apply the "
            "modifier enable_RadialTable then"
        )


def radial_table(radial: ScalarMLP, basis: BesselBasis, max_error: float) -> RadialTable:
    """Return the table of a radial network: as few functions and intervals as the bound allows.

    Args:
        radial: network from the radial basis to a convolution's weights.
        basis: of the model.
        max_error: bound on the error of the weights over their largest magnitude, and the same for
            their slopes. Verified in the network's dtype between the nodes of the table.

    Raises:
        ValueError: the bound is not positive, or smaller than what the dtype and the largest table
            reach.
    """
    if not max_error > 0.0:
        raise ValueError(f"max_error must be a positive number, got {max_error}")
    dtype = radial.weights[-1].dtype
    network = _Network(radial, basis)
    x = (torch.arange(_SAMPLES, dtype=torch.float64) + 1.0) / _SAMPLES
    values, slopes = network.jet(x, 1)
    projection, matrix = _factored(values, slopes, network.matrix, 0.5 * max_error)
    intervals, reached = 32, math.inf
    while intervals <= _MOST_INTERVALS:
        ends = network.ends(intervals) @ projection
        table = RadialTable(ends, matrix, dtype).eval()
        table.error = _error(table, network)
        if table.error <= max_error:
            return table
        reached, intervals = min(reached, table.error), 2 * intervals
    raise ValueError(
        f"max_error is {max_error}, the best table of this network in {dtype} has an error of "
        f"{reached:.1e}; take a larger bound, or a model in float64"
    )


class _Network:
    """A radial network in float64: h(x), and the matrix of w = h W."""

    def __init__(self, radial: ScalarMLP, basis: BesselBasis) -> None:
        self._radial = copy.deepcopy(radial).to(torch.float64).requires_grad_(False)
        self._basis = copy.deepcopy(basis).requires_grad_(False)
        self._basis.dtype = torch.float64
        self.device = radial.weights[-1].device
        self.matrix = self._radial.factors(self._embedding(self._zero()))[1]

    def _zero(self) -> torch.Tensor:
        return torch.zeros(1, 1, dtype=torch.float64, device=self.device)

    def _embedding(self, x: torch.Tensor) -> torch.Tensor:
        embedding: torch.Tensor = self._basis({NORM_LENGTH_KEY: x})[EDGE_EMBEDDING_KEY]
        return embedding

    def jet(self, x: torch.Tensor, order: int) -> list[torch.Tensor]:
        """Return h and its derivatives up to an order at x (S,), each (S, H)."""
        with torch.enable_grad():
            points = x.to(self.device).unsqueeze(1).requires_grad_(True)
            parts = [self._radial.factors(self._embedding(points))[0]]
            for _ in range(order):
                parts.append(_derivative(parts[-1], points))
        return [part.detach() for part in parts]

    def ends(self, intervals: int) -> torch.Tensor:
        """Return h, h' and h'' by the place at 0, 1, ..., n intervals, (n + 1, 3, H)."""
        nodes = torch.arange(1, intervals + 1, dtype=torch.float64) / intervals
        jet = torch.stack(self.jet(nodes, 2), dim=1)
        near = torch.tensor([0.0, _NEAR_ZERO], dtype=torch.float64)
        start, close = self.jet(near, 0)[0]
        # The basis begins with a slope of zero.
        bend = 2.0 * (close - start) / _NEAR_ZERO**2
        first = torch.stack([start, torch.zeros_like(start), bend]).unsqueeze(0)
        units = torch.tensor([1.0, 1.0 / intervals, 1.0 / intervals**2], dtype=torch.float64)
        return torch.cat([first, jet]) * units.to(self.device).reshape(1, 3, 1)


def _derivative(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the derivative of each column of values (S, H), row s of which depends on x[s]."""
    probe = torch.zeros_like(values, requires_grad=True)
    (by_x,) = torch.autograd.grad((probe * values).sum(), [x], create_graph=True)
    (by_probe,) = torch.autograd.grad(by_x.sum(), [probe], create_graph=True)
    return by_probe


def _factored(
    values: torch.Tensor, slopes: torch.Tensor, matrix: torch.Tensor, bound: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return P (H, R) and U (R, W): the weights h P U and their slopes keep to the bound.

    Args:
        values: h, (S, H).
        slopes: h', (S, H).
        matrix: W, (H, W).
        bound: on the error of h W and h' W, over their largest magnitudes.
    """
    # W^T = Q L, so that h L^T has the length of h W.
    q, lower = torch.linalg.qr(matrix.t())
    samples = torch.cat(
        [part / (part @ matrix).abs().max().clamp(min=1e-300) for part in (values, slopes)]
    )
    u, sizes, right = torch.linalg.svd(samples @ lower.t(), full_matrices=False)
    rest = (u * sizes) @ right @ q.t()
    rank = 0
    while rank < len(sizes) and (rank == 0 or float(rest.abs().max()) > bound):
        rest = rest - torch.outer(u[:, rank] * sizes[rank], right[rank] @ q.t())
        rank += 1
    return lower.t() @ right[:rank].t(), right[:rank] @ q.t()


def _quintic(ends: torch.Tensor) -> torch.Tensor:
    """Return the coefficients (n, 6, R) of the polynomials with these values at their ends."""
    value, slope, bend = ends.unbind(1)
    a, b = slice(None, -1), slice(1, None)
    # What is left at the right end of the first three terms.
    rest = value[b] - value[a] - slope[a] - 0.5 * bend[a]
    rest_of_slope = slope[b] - slope[a] - bend[a]
    rest_of_bend = bend[b] - bend[a]
    coefficients = [
        value[a],
        slope[a],
        0.5 * bend[a],
        10.0 * rest - 4.0 * rest_of_slope + 0.5 * rest_of_bend,
        -15.0 * rest + 7.0 * rest_of_slope - rest_of_bend,
        6.0 * rest - 3.0 * rest_of_slope + 0.5 * rest_of_bend,
    ]
    return torch.stack(coefficients, dim=1)


def _error(table: RadialTable, network: _Network) -> float:
    """Return the largest error of weights and slopes between the ends, over the largest of each."""
    places = torch.arange(table.intervals, dtype=torch.float64).unsqueeze(1)
    x = ((places + torch.tensor(_PROBES, dtype=torch.float64)) / table.intervals).reshape(-1)
    x = x[x > _NEAR_ZERO]
    with torch.enable_grad():
        points = x.to(network.device).unsqueeze(1).requires_grad_(True)
        functions, matrix = table.factors(points)
        slopes = _derivative(functions, points)
    worst = 0.0
    for found, exact in zip((functions, slopes), network.jet(x, 1), strict=True):
        expected = exact @ network.matrix
        difference = (found.detach() @ matrix).double() - expected
        worst = max(worst, float(difference.abs().max() / expected.abs().max().clamp(min=1e-300)))
    return worst
