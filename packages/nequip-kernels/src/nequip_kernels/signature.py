"""What one convolution computes, as plain numbers: all that a kernel is generated from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["PathTerm", "Signature", "signature_of"]

# Coupling coefficients below this part of a path's largest are rounding of zero.
_ROUNDING = 1e-6

Entry = tuple[int, int, int, float]


@dataclass(frozen=True)
class PathTerm:
    """One path: a block of input features and one degree of harmonics to a part of the output.

    Features lie component by component, channels last: component i of channel u of the input is
    column ``start_in + i * channels + u``, component k of the output column
    ``start_out + k * stride_out + u``.

    Attributes:
        start_in: first column of the input block.
        dim_in: its components, 2 l_in + 1.
        channels: its channels.
        start_sh: first harmonic.
        dim_sh: harmonics, 2 l_sh + 1.
        start_out: first column of the output.
        stride_out: columns from one output component to the next.
        dim_out: output components, 2 l_out + 1.
        coupling: (i, j, k, C[i, j, k]) of the coefficients that are not zero, dimensionless.
    """

    start_in: int
    dim_in: int
    channels: int
    start_sh: int
    dim_sh: int
    start_out: int
    stride_out: int
    dim_out: int
    coupling: tuple[Entry, ...]


@dataclass(frozen=True)
class Signature:
    """The operation A[c, k, u] += w[e, p, u] sum_ij C_ijk x[n, i, u] Y[e, j] of one layer.

    Attributes:
        num_in: columns of the features x.
        num_sh: columns of the harmonics Y, (l_max + 1)^2.
        num_out: columns of the output A.
        paths: sorted by input block; the columns of the weights w are their channels in this order.
    """

    num_in: int
    num_sh: int
    num_out: int
    paths: tuple[PathTerm, ...]

    @cached_property
    def num_weights(self) -> int:
        """Columns of the weights."""
        return sum(path.channels for path in self.paths)

    @cached_property
    def starts_of_weights(self) -> tuple[int, ...]:
        """First column of the weights of each path."""
        starts, start = [], 0
        for path in self.paths:
            starts.append(start)
            start += path.channels
        return tuple(starts)

    @cached_property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Places of the paths that read each input block, in order."""
        found: dict[int, list[int]] = {}
        for place, path in enumerate(self.paths):
            found.setdefault(path.start_in, []).append(place)
        return tuple(tuple(places) for places in found.values())

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that differ for different operations."""
        words = [str((self.num_in, self.num_sh, self.num_out))]
        for path in self.paths:
            head = (path.start_in, path.dim_in, path.channels, path.start_sh, path.dim_sh)
            words.append(str((*head, path.start_out, path.stride_out, path.dim_out)))
            words += [f"{i} {j} {k} {value.hex()}" for i, j, k, value in path.coupling]
        return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def signature_of(
    blocks_in: Iterable[Sequence[int]],
    paths: Sequence[Sequence[int]],
    blocks_out: Iterable[Sequence[int]],
    couplings: Sequence[torch.Tensor],
    l_max: int,
) -> Signature:
    """Return the signature of a convolution whose output merges the paths of an irrep.

    Args:
        blocks_in: (channels, l, parity) of each input block.
        paths: (place of the input block, l_sh, l_out, parity of the output), sorted by input block.
        blocks_out: (channels, l, parity) of each output block; its channels are those of its paths,
            side by side in path order.
        couplings: one tensor a path, (2l_in+1, 2l_sh+1, 2l_out+1), dimensionless.
        l_max: highest degree of the harmonics.

    Raises:
        ValueError: paths, couplings and blocks do not fit each other.
    """
    inputs, num_in = _starts(blocks_in)
    outputs, num_out = _starts(blocks_out)
    free = {irrep: start for start, _, irrep in outputs}
    strides = {irrep: channels for _, channels, irrep in outputs}
    if len(free) != len(outputs):
        raise ValueError("an irrep stands twice in the output; merge its blocks")
    if [path[0] for path in paths] != sorted(path[0] for path in paths):
        raise ValueError("paths must be sorted by their input block")
    terms = []
    for (place, l_sh, l_out, parity), coupling in zip(paths, couplings, strict=True):
        start, channels, (l_in, _) = inputs[place]
        shape = (2 * l_in + 1, 2 * l_sh + 1, 2 * l_out + 1)
        if tuple(coupling.shape) != shape or l_sh > l_max or (l_out, parity) not in free:
            raise ValueError(
                f"path {(place, l_sh, l_out, parity)} with coupling {tuple(coupling.shape)}: "
                f"expected {shape}, l_sh up to {l_max} and an output block of that irrep"
            )
        terms.append(
            PathTerm(
                start_in=start,
                dim_in=shape[0],
                channels=channels,
                start_sh=l_sh**2,
                dim_sh=shape[1],
                start_out=free[l_out, parity],
                stride_out=strides[l_out, parity],
                dim_out=shape[2],
                coupling=_entries(coupling),
            )
        )
        free[l_out, parity] += channels
    for start, channels, irrep in outputs:
        if free[irrep] != start + channels:
            raise ValueError(
                f"the output block of l={irrep[0]}, parity {irrep[1]} has {channels} channels, "
                f"its paths have {free[irrep] - start}"
            )
    return Signature(num_in, (l_max + 1) ** 2, num_out, tuple(terms))


def _starts(blocks: Iterable[Sequence[int]]) -> tuple[list[tuple[int, int, tuple[int, int]]], int]:
    """Return (first column, channels, irrep) of each block, and the columns of all."""
    found, start = [], 0
    for channels, degree, parity in blocks:
        found.append((start, channels, (degree, parity)))
        start += channels * (2 * degree + 1)
    return found, start


def _entries(coupling: torch.Tensor) -> tuple[Entry, ...]:
    values: list[list[list[float]]] = coupling.detach().double().cpu().tolist()
    all_entries = [
        (i, j, k, value)
        for i, plane in enumerate(values)
        for j, row in enumerate(plane)
        for k, value in enumerate(row)
    ]
    least = _ROUNDING * max((abs(entry[3]) for entry in all_entries), default=0.0)
    return tuple(entry for entry in all_entries if abs(entry[3]) > least)
