"""Which irreps the tensor features of each layer have. An irrep is a pair (degree, parity)."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Irrep", "couples", "dimension", "tensor_track"]

Irrep = tuple[int, int]
"""Degree l and parity p, 1 for even and -1 for odd."""


def dimension(irreps: Sequence[Irrep]) -> int:
    """Return the number of components of one copy of each irrep."""
    return sum(2 * l + 1 for l, _ in irreps)


def couples(first: Irrep, second: Irrep, product: Irrep) -> bool:
    """Return whether the product of two irreps holds a third."""
    degrees = abs(first[0] - second[0]) <= product[0] <= first[0] + second[0]
    return degrees and first[1] * second[1] == product[1]


def tensor_track(
    harmonics: Sequence[Irrep], allowed: Sequence[Irrep], num_layers: int
) -> list[tuple[Irrep, ...]]:
    """Return the irreps of the tensor features before, between and after the layers.

    Features start as `harmonics`, and a layer multiplies them with harmonics. They are what of
    `allowed` can be reached, without what does not lead to the scalars of the last layer.

    Args:
        harmonics: irreps of the edge harmonics.
        allowed: irreps that features may have, in the order that they get; 0e first.
        num_layers: number of layers, at least 1.

    Raises:
        ValueError: 0e is not the first of `allowed`, or some harmonics would have no effect.
    """
    if not allowed or tuple(allowed[0]) != (0, 1):
        raise ValueError(
            f"tensor features must begin with even scalars (0e), from which a layer takes its "
            f"scalars; allowed are {list(allowed)}"
        )
    reached = [tuple(harmonics)]
    for layer in range(num_layers):
        candidates = [(0, 1)] if layer == num_layers - 1 else allowed
        reached.append(
            tuple(
                (l, p)
                for l, p in candidates
                if any(couples(a, b, (l, p)) for a in reached[-1] for b in harmonics)
            )
        )
    kept = [reached[-1]]
    for before in reversed(reached[:-1]):
        useful = (
            irrep
            for irrep in before
            if any(couples(irrep, b, after) for b in harmonics for after in kept[-1])
        )
        kept.append(tuple(useful))
    kept.reverse()
    if kept[0] != reached[0]:
        lost = [irrep for irrep in reached[0] if irrep not in kept[0]]
        raise ValueError(
            f"harmonics {lost} have no effect with the tensor features {list(allowed)}; allow more"
        )
    return kept
