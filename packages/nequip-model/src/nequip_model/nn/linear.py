"""Equivariant linear maps: they mix the channels of an irrep and leave its components alone."""

from __future__ import annotations

import math

import torch

from nequip_model.nn.layout import Layout, irrep_name

__all__ = ["EquivariantLinear", "SelfConnection"]


def _pairs(layout_in: Layout, layout_out: Layout) -> list[tuple[int, int]]:
    """Return the places (in, out) of the irreps that both layouts have, input order first."""
    return [
        (i, o)
        for i, (_, l, p) in enumerate(layout_in.blocks)
        for o, (_, lo, po) in enumerate(layout_out.blocks)
        if (l, p) == (lo, po)
    ]


def _assemble(layout: Layout, blocks: dict[int, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Return (N, dim) from blocks by place; a missing block is zero."""
    rows = like.shape[0]
    return torch.cat(
        [
            blocks[place].reshape(rows, size) if place in blocks else like.new_zeros((rows, size))
            for place, size in enumerate(layout.sizes)
        ],
        dim=1,
    )


class EquivariantLinear(torch.nn.Module):
    """(N, in) -> (N, out), per irrep: y = x W / sqrt(channels_in).

    An irrep of the output that the input lacks is zero. Weights ``weights.<irrep>``, (channels_in,
    channels_out), are drawn from N(0, 1).

    Args:
        layout_in: layout of the input, every irrep once.
        layout_out: layout of the output, every irrep once.
        dtype: of the weights.
    """

    def __init__(self, layout_in: Layout, layout_out: Layout, dtype: torch.dtype) -> None:
        super().__init__()
        self.layout_in, self.layout_out = layout_in, layout_out
        self.pairs = _pairs(layout_in, layout_out)
        shapes = [(layout_in.blocks[i][0], layout_out.blocks[o][0]) for i, o in self.pairs]
        # One draw for all irreps: the order in which published seeds fill the weights.
        flat = torch.randn(sum(u * w for u, w in shapes), dtype=dtype)
        self.weights = torch.nn.ParameterDict()
        parts = torch.split(flat, [u * w for u, w in shapes])
        for (_, o), (u, w), part in zip(self.pairs, shapes, parts, strict=True):
            _, l, p = layout_out.blocks[o]
            self.weights[irrep_name(l, p)] = torch.nn.Parameter(part.reshape(u, w).clone())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the mixed features."""
        blocks = self.layout_in.split(features)
        mixed: dict[int, torch.Tensor] = {}
        for i, o in self.pairs:
            channels, l, p = self.layout_in.blocks[i]
            mixed[o] = blocks[i] @ (self.weights[irrep_name(l, p)] * (1.0 / math.sqrt(channels)))
        return _assemble(self.layout_out, mixed, features)


class SelfConnection(torch.nn.Module):
    """Each atom's own features through a linear map that its attributes choose.

    y_w = sum_uv W_vuw a_v x_u / sqrt(channels_in * A), per irrep. Weights ``weights.<irrep>``,
    (A, channels_in, channels_out), are drawn from N(0, 1).

    Args:
        layout_in: layout of the features, every irrep once.
        num_attributes: A, the number of scalar attributes of an atom.
        layout_out: layout of the output, every irrep once; an irrep the input lacks is zero.
        dtype: of the weights.
    """

    def __init__(
        self, layout_in: Layout, num_attributes: int, layout_out: Layout, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.layout_in, self.layout_out = layout_in, layout_out
        self.num_attributes = num_attributes
        self.pairs = _pairs(layout_in, layout_out)
        shapes = [
            (layout_in.blocks[i][0], num_attributes, layout_out.blocks[o][0]) for i, o in self.pairs
        ]
        flat = torch.randn(sum(math.prod(shape) for shape in shapes), dtype=dtype)
        self.weights = torch.nn.ParameterDict()
        parts = torch.split(flat, [math.prod(shape) for shape in shapes])
        for (_, o), shape, part in zip(self.pairs, shapes, parts, strict=True):
            _, l, p = layout_out.blocks[o]
            weight = part.reshape(shape).transpose(0, 1).contiguous()
            self.weights[irrep_name(l, p)] = torch.nn.Parameter(weight)

    def forward(self, features: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
        """Return (N, out) of features (N, in) and attributes (N, A)."""
        blocks = self.layout_in.split(features)
        rows = features.shape[0]
        mixed: dict[int, torch.Tensor] = {}
        for i, o in self.pairs:
            channels, l, p = self.layout_in.blocks[i]
            weight = self.weights[irrep_name(l, p)]
            scaled = attributes * (1.0 / math.sqrt(channels * self.num_attributes))
            per_atom = scaled @ weight.reshape(self.num_attributes, -1)
            mixed[o] = torch.bmm(blocks[i], per_atom.reshape(rows, channels, weight.shape[2]))
        return _assemble(self.layout_out, mixed, features)
