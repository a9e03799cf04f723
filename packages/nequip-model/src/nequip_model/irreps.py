"""Which irreps flow through a network: layouts, reachability, paths and couplings.

This is construction only, in e3nn's notation and conventions. Nothing here is needed to run a
model. e3nn itself is imported only for its own objects: it takes a second to import.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from nequip_core.errors import ConfigError
from nequip_model.coupling import wigner_3j
from nequip_model.nn.convolution import Path
from nequip_model.nn.layout import Block, Layout, merged

__all__ = [
    "LayerIrreps",
    "coupling",
    "hidden_layout",
    "layer_irreps",
    "parse_irreps",
]

# Channels (1 if left out), degree, parity; y is the parity of the harmonics, (-1)^l.
_TERM = re.compile(r"(?:(?P<mul>\d+)\s*x\s*)?(?P<l>\d+)\s*(?P<p>[eoy])")


def parse_irreps(irreps: object) -> Layout:
    """Return the layout of e3nn notation such as ``32x0e + 16x1o``.

    Raises:
        ConfigError: the notation is wrong.
    """
    if isinstance(irreps, str):
        return Layout(_term(term.strip(), irreps) for term in irreps.split("+") if irreps.strip())
    from e3nn.o3 import Irreps

    try:
        return Layout((mul, ir.l, ir.p) for mul, ir in Irreps(irreps))
    except (ValueError, AssertionError, TypeError) as error:
        raise ConfigError(f"not a valid irreps notation: {irreps!r} ({error})") from error


def _term(term: str, notation: str) -> Block:
    """Return channels, degree and parity of one term."""
    found = _TERM.fullmatch(term)
    if found is None:
        raise ConfigError(
            f"not a valid irreps notation: {notation!r}; it is channels, 'x', degree and parity "
            "(e or o), with '+' between, as in '32x0e + 16x1o'"
        )
    degree = int(found["l"])
    parity = {"e": 1, "o": -1, "y": (-1) ** degree}[found["p"]]
    return (int(found["mul"] or 1), degree, parity)


def coupling(l_in: int, l_sh: int, l_out: int, dtype: torch.dtype) -> torch.Tensor:
    """Return sqrt(2 l_out + 1) times the Wigner 3j symbols, (2l_in+1, 2l_sh+1, 2l_out+1).

    The phase and axis convention of e3nn.
    """
    return (math.sqrt(2 * l_out + 1) * wigner_3j(l_in, l_sh, l_out)).to(dtype)


def hidden_layout(l_max: int, parity: bool, num_features: Sequence[int]) -> Layout:
    """Return the hidden features: `num_features[l]` channels of each irrep up to `l_max`.

    Args:
        l_max: highest degree.
        parity: both parities of each degree, or only that of the harmonics, (-1)^l.
        num_features: channels by degree, l_max + 1 numbers.
    """
    parities = {l: (1, -1) if parity else ((-1) ** l,) for l in range(l_max + 1)}
    return Layout((num_features[l], l, p) for l in range(l_max + 1) for p in parities[l])


def _sorted(blocks: Iterable[Block]) -> list[Block]:
    """Return blocks by degree, odd before even; stable."""
    return sorted(blocks, key=lambda block: block[1:])


@dataclass(frozen=True)
class LayerIrreps:
    """The layouts of one interaction layer.

    Attributes:
        scalars: kept scalars, in output order.
        gate_parity: parity of the gate scalars.
        gated: gated irreps, in output order.
        mixed: input of the nonlinearity: scalars, gates and gated irreps, sorted and merged.
        paths: of the convolution, sorted by input block.
        convolved: output of the convolution, sorted and merged.
    """

    scalars: tuple[Block, ...]
    gate_parity: int
    gated: tuple[Block, ...]
    mixed: Layout
    paths: tuple[Path, ...]
    convolved: Layout


def layer_irreps(
    layout_in: Layout,
    l_max: int,
    target: Layout,
    gates: bool = True,
    harmonics_parity: int = -1,
) -> LayerIrreps:
    """Return the irreps of a layer that turns `layout_in` into as much of `target` as is reachable.

    An irrep is reachable if some input irrep couples to it with a harmonic of degree <= l_max,
    whose parity is (-1)^l.

    Args:
        layout_in: the layer's input features.
        l_max: degree of the harmonics.
        target: the wanted output features, every irrep once.
        gates: with a scalar for every gated channel; else `mixed` is scalars and gated irreps,
            in output order.
        harmonics_parity: p, where a harmonic of degree l has the parity p^l: -1, or 1 for harmonics
            taken as even, which is not equivariant to inversion.

    Raises:
        ConfigError: nothing of the target is reachable, or an irrep stands in it twice.
    """

    def reachable(l: int, p: int) -> bool:
        return any(
            abs(l_in - l_sh) <= l <= l_in + l_sh and p_in * harmonics_parity**l_sh == p
            for _, l_in, p_in in layout_in.blocks
            for l_sh in range(l_max + 1)
        )

    if len({block[1:] for block in target.blocks}) != len(target.blocks):
        raise ConfigError(
            f"features must have every irrep once, got {target}: add up the channels of an irrep"
        )
    kept = [block for block in target.blocks if reachable(*block[1:])]
    scalars = [block for block in kept if block[1] == 0]
    gated = [block for block in kept if block[1] > 0]
    if not kept:
        raise ConfigError(f"none of the features {target} can be made from {layout_in}")
    gate_parity = 1 if reachable(0, 1) else -1
    mixed = Layout([*scalars, *gated])
    if gates:
        own = [(channels, 0, gate_parity) for channels, _, _ in gated]
        mixed = Layout(merged(_sorted([*scalars, *own, *gated])))
    wanted = {block[1:] for block in mixed.blocks}
    paths: list[Path] = []
    for place, (_, l_in, p_in) in enumerate(layout_in.blocks):
        for l_sh in range(l_max + 1):
            for l_out in range(abs(l_in - l_sh), l_in + l_sh + 1):
                p_out = p_in * harmonics_parity**l_sh
                if (l_out, p_out) in wanted:
                    paths.append((place, l_sh, l_out, p_out))
    outputs = [(layout_in.blocks[place][0], l_out, p_out) for place, _, l_out, p_out in paths]
    return LayerIrreps(
        scalars=tuple(scalars),
        gate_parity=gate_parity,
        gated=tuple(gated),
        mixed=mixed,
        paths=tuple(paths),
        convolved=Layout(merged(_sorted(outputs))),
    )
