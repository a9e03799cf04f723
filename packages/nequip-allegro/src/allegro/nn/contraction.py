"""The tensor product of Allegro: each edge's features with the environment of its centre."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from allegro.nn.tensor_track import Irrep, couples, dimension
from nequip_model.coupling import wigner_3j

__all__ = ["Contracter"]


class Contracter(torch.nn.Module):
    """V'[e, k, u] = sum over paths p, i and j of w[u, p] C[p, i, j, k] V[e, i, u] A[c(e), j, u].

    A path is an irrep of the features and one of the environment that couple to one of the output.
    The environment is the same for all edges of a centre, so it is contracted with weights and
    coefficients once an atom, to a matrix that each edge multiplies.

    Axes: E edges, N atoms, u the M channels, i, j, k components of the irreps.

    Args:
        irreps_in1: irreps (l, p) of the features.
        irreps_in2: irreps of the environment.
        irreps_out: irreps of the output.
        num_channels: M.
        path_channel_coupling: a weight for each path and channel, or one a path.

    The names, shapes and orders of ``weights`` and ``w3j`` are those of published checkpoints: an
    axis of one path is left out, and so is j where every path couples equal components.
    """

    def __init__(
        self,
        irreps_in1: Sequence[Irrep],
        irreps_in2: Sequence[Irrep],
        irreps_out: Sequence[Irrep],
        num_channels: int,
        path_channel_coupling: bool = True,
    ) -> None:
        super().__init__()
        self.coupled = path_channel_coupling
        self.dims = (dimension(irreps_in1), dimension(irreps_in2), dimension(irreps_out))
        paths = _path_coefficients(irreps_in1, irreps_in2, irreps_out)
        self.num_paths = paths.shape[0]
        self.diagonal = _is_diagonal(paths)
        if self.diagonal:
            paths = paths.diagonal(dim1=1, dim2=2).transpose(1, 2).contiguous()
        one_path = self.num_paths == 1
        shape = [num_channels] if path_channel_coupling else []
        # Published models draw normal numbers before these: the same seed gives the same weights.
        weights = torch.randn([*shape, *([] if one_path else [self.num_paths])])
        self.weights = torch.nn.Parameter(weights.uniform_(-math.sqrt(3.0), math.sqrt(3.0)))
        coefficients = paths.to(torch.get_default_dtype())
        self.register_buffer("w3j", coefficients[0] if one_path else coefficients)
        self.w3j: torch.Tensor

    def forward(
        self, features: torch.Tensor, environment: torch.Tensor, centre: torch.Tensor
    ) -> torch.Tensor:
        """Return the new features, (E, dim of the output, M).

        Args:
            features: (E, dim of the first input, M).
            environment: (N, dim of the second input, M).
            centre: (E,) atom whose environment an edge sees.
        """
        # (P, coefficients) and (P, M or 1): the weighted sum of the paths.
        coefficients = self.w3j.reshape(self.num_paths, -1)
        channels = self.weights.shape[0] if self.coupled else 1
        weights = self.weights.reshape(channels, self.num_paths)
        mixed = coefficients.transpose(0, 1) @ weights.transpose(0, 1)
        dim1, dim2, dim_out = self.dims
        if self.diagonal:
            matrices = environment * mixed.reshape(dim1, channels)
            products = features * matrices.index_select(0, centre)
            return products.sum(1, keepdim=True)
        mixed = mixed.reshape(dim1, dim2, dim_out, channels)
        if self.coupled:
            # One matrix product a channel: (M, N, j) with (M, j, i k).
            right = mixed.permute(3, 1, 0, 2).reshape(channels, dim2, dim1 * dim_out)
            matrices = torch.bmm(environment.permute(2, 0, 1), right).permute(1, 2, 0)
        else:
            right = mixed.permute(1, 0, 2, 3).reshape(dim2, dim1 * dim_out)
            matrices = torch.matmul(environment.transpose(1, 2), right).transpose(1, 2)
        matrices = matrices.reshape(-1, dim1, dim_out, features.shape[2])
        # Component by component: a matrix for every edge would be the largest tensor of the model.
        gathered = (matrix.index_select(0, centre) for matrix in matrices.unbind(1))
        first, *others = features.unsqueeze(2).unbind(1)
        product = first * next(gathered)
        for feature, matrix in zip(others, gathered, strict=True):
            product = torch.addcmul(product, feature, matrix)
        return product


def _path_coefficients(
    irreps_in1: Sequence[Irrep], irreps_in2: Sequence[Irrep], irreps_out: Sequence[Irrep]
) -> torch.Tensor:
    """Return sqrt(2 l_out + 1) times the 3j symbols of each path, (P, i, j, k), float64.

    Paths are ordered by output, then first, then second input.

    Raises:
        ValueError: nothing couples.
    """
    blocks = []
    for k, out in enumerate(irreps_out):
        for i, first in enumerate(irreps_in1):
            for j, second in enumerate(irreps_in2):
                if couples(first, second, out):
                    blocks.append((i, j, k))
    if not blocks:
        raise ValueError(f"{irreps_in1} and {irreps_in2} do not couple to {irreps_out}")
    sizes = [dimension(irreps) for irreps in (irreps_in1, irreps_in2, irreps_out)]
    paths = torch.zeros(len(blocks), *sizes, dtype=torch.float64)
    for path, (i, j, k) in zip(paths, blocks, strict=True):
        degrees = (irreps_in1[i][0], irreps_in2[j][0], irreps_out[k][0])
        rows, columns, layers = (
            slice(start, start + 2 * degree + 1)
            for start, degree in zip(
                (dimension(irreps_in1[:i]), dimension(irreps_in2[:j]), dimension(irreps_out[:k])),
                degrees,
                strict=True,
            )
        )
        path[rows, columns, layers] = math.sqrt(2 * degrees[2] + 1) * wigner_3j(*degrees)
    return paths


def _is_diagonal(paths: torch.Tensor) -> bool:
    """Return whether coefficients (P, i, j, k) couple equal components to scalars only."""
    if paths.shape[1] != paths.shape[2] or paths.shape[3] != 1:
        return False
    off_diagonal = ~torch.eye(paths.shape[1], dtype=torch.bool)
    return not bool(paths[:, off_diagonal].any())
