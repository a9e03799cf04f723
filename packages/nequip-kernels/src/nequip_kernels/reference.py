"""The operation and its derivatives in plain torch: any device and dtype, and the judge of kernels.

T = sum over edges, paths, i, j, k and u of g[c, k, u] w[e, p, u] C_ijk x[n, i, u] Y[e, j] is linear
in each of g, w, x and Y. The operation and its gradients are its four partial derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from nequip_kernels.signature import PathTerm, Signature

__all__ = ["Reference", "table_weights"]


class Reference:
    """The functions of a signature on tensors of any device and floating-point dtype.

    The arguments are x (N, num_in), Y (E, num_sh), w (E, num_weights), g (N, num_out), the node c
    (E,) that receives and the node n (E,) that sends; for the radial functions h (E, H) and
    W (H, num_weights) in place of w = h W.

    Args:
        signature: the operation.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature

    def forward(
        self,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        weights: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> torch.Tensor:
        """Return A = dT/dg, (N, num_out)."""
        num_out = self.signature.num_out
        result = features.new_zeros((features.shape[0], num_out))
        for path, weight, coupling in _terms(self.signature, weights):
            x = _inputs(path, features).index_select(0, neighbour)
            y = harmonics.narrow(1, path.start_sh, path.dim_sh)
            message = torch.einsum("eiu,ej,ijk,eu->eku", x, y, coupling, weight)
            result = result.index_add(0, centre, _at_columns(path, message, num_out))
        return result

    def by_features(
        self,
        gradient: torch.Tensor,
        harmonics: torch.Tensor,
        weights: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> torch.Tensor:
        """Return dT/dx, (N, num_in)."""
        num_in = self.signature.num_in
        result = gradient.new_zeros((gradient.shape[0], num_in))
        for path, weight, coupling in _terms(self.signature, weights):
            g = _outputs(path, gradient).index_select(0, centre)
            y = harmonics.narrow(1, path.start_sh, path.dim_sh)
            message = torch.einsum("eku,ej,ijk,eu->eiu", g, y, coupling, weight).flatten(1)
            right = num_in - path.start_in - message.shape[1]
            padded = torch.nn.functional.pad(message, (path.start_in, right))
            result = result.index_add(0, neighbour, padded)
        return result

    def by_edges(
        self,
        gradient: torch.Tensor,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        weights: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return dT/dY, (E, num_sh), and dT/dw, (E, num_weights)."""
        by_harmonics = torch.zeros_like(harmonics)
        by_weights = []
        for path, weight, coupling in _terms(self.signature, weights):
            x = _inputs(path, features).index_select(0, neighbour)
            g = _outputs(path, gradient).index_select(0, centre)
            product = torch.einsum("eiu,eku,ijk->eju", x, g, coupling)
            y = harmonics.narrow(1, path.start_sh, path.dim_sh)
            by_weights.append(torch.einsum("eju,ej->eu", product, y))
            right = self.signature.num_sh - path.start_sh - path.dim_sh
            part = torch.einsum("eju,eu->ej", product, weight)
            by_harmonics = by_harmonics + torch.nn.functional.pad(part, (path.start_sh, right))
        return by_harmonics, torch.cat(by_weights, dim=1)

    def radial_forward(
        self,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        hidden: torch.Tensor,
        matrix: torch.Tensor,
        *edges: torch.Tensor,
    ) -> torch.Tensor:
        """Return `forward` with the weights hidden @ matrix."""
        return self.forward(features, harmonics, hidden @ matrix, *edges)

    def radial_backward(
        self,
        gradient: torch.Tensor,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        hidden: torch.Tensor,
        matrix: torch.Tensor,
        *edges: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the gradients of `radial_forward` by features, harmonics and hidden."""
        weights = hidden @ matrix
        by_features = self.by_features(gradient, harmonics, weights, *edges)
        by_y, by_w = self.by_edges(gradient, features, harmonics, weights, *edges)
        return by_features, by_y, by_w @ matrix.t()

    def table_forward(
        self,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        places: torch.Tensor,
        rows: torch.Tensor,
        *edges: torch.Tensor,
    ) -> torch.Tensor:
        """Return `forward` with the weights of `table_weights`."""
        return self.forward(features, harmonics, table_weights(places, rows), *edges)

    def table_backward(
        self,
        gradient: torch.Tensor,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        places: torch.Tensor,
        rows: torch.Tensor,
        *edges: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the gradients of `table_forward` by features, harmonics and places."""
        with torch.enable_grad():
            at = places.detach().requires_grad_()
            weights = table_weights(at, rows)
        by_features = self.by_features(gradient, harmonics, weights.detach(), *edges)
        by_y, by_w = self.by_edges(gradient, features, harmonics, weights.detach(), *edges)
        (by_places,) = torch.autograd.grad(weights, [at], by_w)
        return by_features, by_y, by_places


def table_weights(places: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return weights (E, W): polynomials of degree 5 in each of n intervals, zero behind the last.

    Args:
        places: of the edges, in intervals, (E,), float64.
        rows: (3 (n + 1), W), for each end of an interval the values, slopes and curvatures of the
            weights as functions of the place.
    """
    intervals = rows.shape[0] // 3 - 1
    left = places.detach().floor().clamp(0, intervals - 1)
    t = (places - left).unsqueeze(1)
    first = 3 * left.to(torch.int64)
    cube = t**3
    ends = (
        1 + cube * (-10 + t * (15 - 6 * t)),
        t + cube * (-6 + t * (8 - 3 * t)),
        t**2 / 2 + cube * (-1.5 + t * (1.5 - 0.5 * t)),
        cube * (10 + t * (-15 + 6 * t)),
        cube * (-4 + t * (7 - 3 * t)),
        cube * (0.5 + t * (-1 + 0.5 * t)),
    )
    parts = [end.to(rows.dtype) * rows.index_select(0, first + d) for d, end in enumerate(ends)]
    return sum(parts[1:], parts[0]) * (places < intervals).unsqueeze(1)


def _terms(
    signature: Signature, weights: torch.Tensor
) -> Iterator[tuple[PathTerm, torch.Tensor, torch.Tensor]]:
    """Yield each path with its weights (E, U) and its coupling (2l_in+1, 2l_sh+1, 2l_out+1)."""
    for path, start in zip(signature.paths, signature.starts_of_weights, strict=True):
        coupling = torch.zeros(path.dim_in, path.dim_sh, path.dim_out, dtype=torch.float64)
        for i, j, k, value in path.coupling:
            coupling[i, j, k] = value
        yield path, weights.narrow(1, start, path.channels), coupling.to(weights)


def _inputs(path: PathTerm, features: torch.Tensor) -> torch.Tensor:
    """Return the input block, (N, 2l_in+1, U)."""
    block = features.narrow(1, path.start_in, path.dim_in * path.channels)
    return block.reshape(-1, path.dim_in, path.channels)


def _columns(path: PathTerm, device: torch.device) -> torch.Tensor:
    """Return the columns of the output, ((2l_out+1) U,)."""
    component = torch.arange(path.dim_out, device=device).unsqueeze(1) * path.stride_out
    channel = torch.arange(path.channels, device=device)
    return (path.start_out + component + channel).reshape(-1)


def _outputs(path: PathTerm, gradient: torch.Tensor) -> torch.Tensor:
    """Return the part of the output that the path adds to, (N, 2l_out+1, U)."""
    part = gradient.index_select(1, _columns(path, gradient.device))
    return part.reshape(-1, path.dim_out, path.channels)


def _at_columns(path: PathTerm, message: torch.Tensor, columns: int) -> torch.Tensor:
    """Return messages (E, 2l_out+1, U) as rows of the output, (E, columns)."""
    rows = message.new_zeros((message.shape[0], columns))
    return rows.index_copy(1, _columns(path, message.device), message.flatten(1))
