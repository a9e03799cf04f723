"""How many frames, atoms and edges a compiled model takes: ``--num-frames`` and its like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nequip_core.compiled_metadata import SIZES_KEY
from nequip_core.errors import ConfigError

__all__ = ["ANY_SIZES", "STATIC", "Size", "Sizes", "size_from_text", "sizes_of_file"]

STATIC = "static"
# Export takes 0 and 1 for constants. Compiled models take them nevertheless: with the smallest
# declared size 2, the verification has an atom without neighbors.
_SMALLEST = 2


@dataclass(frozen=True)
class Size:
    """The sizes that an axis may have, both ends included."""

    least: int = _SMALLEST
    """Smallest size; 2 and less mean that there is no smallest."""
    most: float = math.inf
    """Largest size, or infinity."""
    static: bool = False
    """Whether the only size is that of the example which is compiled with."""

    def holds(self, size: int) -> bool:
        """Return whether an axis may have this size; a static one is known by its example only."""
        return (self.least <= _SMALLEST or size >= self.least) and size <= self.most

    def __str__(self) -> str:
        most = "inf" if math.isinf(self.most) else f"{self.most:.0f}"
        return STATIC if self.static else f"{self.least},{most}"


@dataclass(frozen=True)
class Sizes:
    """The sizes of a compiled model's axes."""

    frames: Size = Size()
    """Frames in a call, for targets that take several."""
    nodes: Size = Size()
    """Atoms of all frames of a call."""
    edges: Size = Size()
    """Edges of all frames of a call."""

    def __str__(self) -> str:
        return f"{self.frames} {self.nodes} {self.edges}"

    def hold(self, frames: int, nodes: int, edges: int) -> bool:
        """Return whether a call may have these sizes."""
        return self.frames.holds(frames) and self.nodes.holds(nodes) and self.edges.holds(edges)

    @property
    def hold_small_batches(self) -> bool:
        """Whether one atom alone fits, and a batch of many small frames, which derivatives take."""
        return self.hold(1, 1, 0) and self.hold(64, 1_000, 100_000)

    def fixed(self, frames: int, nodes: int, edges: int) -> Sizes:
        """Return these sizes with the static ones replaced by those of an example."""

        def one(size: Size, number: int) -> Size:
            return Size(number, number) if size.static else size

        return Sizes(one(self.frames, frames), one(self.nodes, nodes), one(self.edges, edges))


ANY_SIZES = Sizes()
"""Without bounds."""


def size_from_text(text: str) -> Size:
    """Return the sizes of ``min,max``, where max may be ``inf``, or of ``static``.

    Raises:
        ConfigError: the text is neither, or no size lies between the two numbers.
    """
    if text.strip() == STATIC:
        return Size(static=True)
    first, _, second = (part.strip() for part in text.partition(","))
    if not first.isdecimal() or not (second.isdecimal() or second == "inf"):
        raise ConfigError(f"expected min,max (as in 2,1000 or 2,inf) or {STATIC}, got '{text}'")
    least, most = int(first), math.inf if second == "inf" else int(second)
    if most < max(least, _SMALLEST):
        raise ConfigError(f"max must be at least min and {_SMALLEST}, got '{text}'")
    return Size(least, most)


def sizes_of_file(metadata: Mapping[str, str]) -> Sizes:
    """Return the sizes that a compiled file is for, by its metadata; any, if they name none."""
    stated = metadata.get(SIZES_KEY, "").split()
    pairs = [one.split(",") for one in stated]
    return Sizes(*(Size(int(least), float(most)) for least, most in pairs))
