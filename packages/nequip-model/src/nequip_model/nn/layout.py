"""How equivariant features lie in memory: channel-last blocks, one an irrep."""

from __future__ import annotations

from collections.abc import Iterable

import torch

__all__ = ["Block", "Layout", "irrep_name", "merged"]

Block = tuple[int, int, int]
"""(channels, l, parity): `channels` copies of the irrep of degree l and parity +1 or -1."""


def irrep_name(degree: int, parity: int) -> str:
    """Return the usual name of an irrep, e.g. ``1o``."""
    return f"{degree}{'e' if parity == 1 else 'o'}"


def merged(blocks: Iterable[Block]) -> list[Block]:
    """Return the blocks with neighbours of the same irrep joined."""
    joined: list[Block] = []
    for channels, l, p in blocks:
        if joined and joined[-1][1:] == (l, p):
            joined[-1] = (joined[-1][0] + channels, l, p)
        else:
            joined.append((channels, l, p))
    return joined


class Layout:
    """A sequence of blocks; a feature tensor is (N, dim) with dim = sum of (2l+1) * channels.

    Within a block the irrep component is the slow axis and the channel the fast one, so a block
    is a view of shape (N, 2l+1, channels).

    Args:
        blocks: (channels, l, parity) in order.
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        self.blocks: tuple[Block, ...] = tuple((int(c), int(l), int(p)) for c, l, p in blocks)
        self.sizes: list[int] = [c * (2 * l + 1) for c, l, _ in self.blocks]
        self.dim: int = sum(self.sizes)

    def split(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Return one view (N, 2l+1, channels) a block of features (N, dim)."""
        rows = features.shape[0]
        parts = torch.split(features, self.sizes, dim=1)
        return [
            part.reshape(rows, 2 * degree + 1, channels)
            for part, (channels, degree, _) in zip(parts, self.blocks, strict=True)
        ]

    def index(self, degree: int, parity: int) -> int | None:
        """Return the place of the first block of an irrep, or None."""
        for place, (_, l, p) in enumerate(self.blocks):
            if (l, p) == (degree, parity):
                return place
        return None

    def __str__(self) -> str:
        return " + ".join(f"{c}x{irrep_name(l, p)}" for c, l, p in self.blocks)

    def __repr__(self) -> str:
        return f"Layout({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.blocks == other.blocks

    def __hash__(self) -> int:
        return hash(self.blocks)
