"""A cell list in torch operations: whole batches at once, on the device of the data.

Each frame is cut into bins at least as wide as the cutoff (fewer where the cell is smaller, with
images of the cell in their place). Pairs of occupied bins within reach give candidates, which are
compared with the cutoff a chunk at a time. Each pair is looked at once and then mirrored, so the
list is symmetric whatever rounding does at the cutoff. Time and memory are linear in atoms.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from nequip_core.fields import BATCH_KEY, EDGE_CELL_SHIFT_KEY, EDGE_INDEX_KEY, POSITIONS_KEY
from nequip_core.frames import Frame
from nequip_core.neighbors.geometry import periodicity

__all__ = ["torch_neighbors"]

# Candidates in memory at once: a chunk fits the caches of a CPU, and fills a GPU.
_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 24}
# Bins a direction at most, so that bin numbers of many frames fit int64; beyond it bins are wider.
_MOST_BINS = 1 << 16
# Bins are this much wider than the cutoff, so that rounding moves no pair out of reach.
_MARGIN = 1.0 + 1e-6


def torch_neighbors(data: Frame, r_max: float) -> Frame:
    """Add ``edge_index`` (2, E) and ``edge_cell_shift`` (E, 3), int64, to a frame or batch.

    Raises:
        DataError: a cell does not fit the periodicity.
    """
    positions = data[POSITIONS_KEY].detach().to(torch.float64)
    device = positions.device
    cells, pbc = periodicity(data)
    batch = data.get(BATCH_KEY)
    if batch is None:
        batch = torch.zeros(len(positions), dtype=torch.int64, device=device)
    edges = torch.zeros((2, 0), dtype=torch.int64, device=device)
    shifts = torch.zeros((0, 3), dtype=torch.int64, device=device)
    if len(positions):
        bins = _fill_bins(positions, cells, pbc, batch, r_max)
        edges, shifts = _pairs_within(bins, _neighbouring_bins(bins), r_max)
    data[EDGE_INDEX_KEY] = torch.cat([edges, edges.flip(0)], dim=1)
    data[EDGE_CELL_SHIFT_KEY] = torch.cat([shifts, -shifts])
    return data


@dataclass(frozen=True)
class _Bins:
    """Atoms sorted by bin, and the M occupied bins."""

    order: torch.Tensor  # (N,) atom at each sorted place
    points: torch.Tensor  # (N, 3) sorted, wrapped along periodic directions, length
    wraps: torch.Tensor  # (N, 3) sorted, whole cells taken away by wrapping
    key: torch.Tensor  # (M,) number of the bin, increasing
    first: torch.Tensor  # (M,) sorted place of its first atom
    size: torch.Tensor  # (M,) atoms in it
    frame: torch.Tensor  # (M,)
    place: torch.Tensor  # (M, 3) bin coordinates
    start: torch.Tensor  # (F,) number of the first bin of a frame
    count: torch.Tensor  # (F, 3) bins a direction
    reach: torch.Tensor  # (F, 3) bins to look at to either side
    cells: torch.Tensor  # (F, 3, 3)
    pbc: torch.Tensor  # (F, 3)


def _fill_bins(
    positions: torch.Tensor, cells: np.ndarray, pbc: np.ndarray, batch: torch.Tensor, r_max: float
) -> _Bins:
    inverses = np.linalg.inv(cells)
    device = positions.device
    to_fractional = torch.tensor(inverses, device=device)
    heights = torch.tensor(1.0 / np.linalg.norm(inverses, axis=1), device=device)
    cell, periodic = torch.tensor(cells, device=device), torch.tensor(pbc, device=device)

    fractional = torch.einsum("ni,nij->nj", positions, to_fractional[batch])
    wraps = torch.where(periodic[batch], fractional.floor(), 0.0)
    points = positions - torch.einsum("ni,nij->nj", wraps, cell[batch])
    fractional = fractional - wraps
    # Open directions are binned between their outermost atoms.
    rows, zero = batch.unsqueeze(-1).expand(-1, 3), torch.zeros_like(heights)
    low = zero.scatter_reduce(0, rows, fractional, "amin", include_self=False)
    high = zero.scatter_reduce(0, rows, fractional, "amax", include_self=False)
    low = torch.where(periodic, 0.0, low)
    extent = torch.where(periodic, 1.0, high - low)

    widest = r_max * _MARGIN
    length = extent * heights
    count = (length / widest).floor().clamp(1, _MOST_BINS).long()
    images = (widest * count / length).ceil()  # infinite only where an open direction is flat
    reach = torch.where(periodic, images, (count > 1).double()).long()
    inside = (fractional - low[batch]) / extent.clamp(min=1e-300)[batch]
    place = (inside * count[batch]).floor().long().clamp(min=0).minimum(count[batch] - 1)

    ends = count.prod(-1).cumsum(0)
    start = ends - count.prod(-1)
    keys, order = _number(place, start[batch], count[batch]).sort()
    key, size = torch.unique_consecutive(keys, return_counts=True)
    first = size.cumsum(0) - size
    atom = order[first]
    return _Bins(
        order, points[order], wraps[order].long(), key, first, size, batch[atom], place[atom],
        start, count, reach, cell, periodic,
    )  # fmt: skip


def _number(place: torch.Tensor, start: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    return start + (place[:, 0] * count[:, 1] + place[:, 1]) * count[:, 2] + place[:, 2]


@dataclass(frozen=True)
class _BinPairs:
    """P pairs of occupied bins within reach, each once; a bin with itself included."""

    one: torch.Tensor  # (P,) index of a bin
    other: torch.Tensor  # (P,) index of a bin
    image: torch.Tensor  # (P, 3) whole cells to add to the other


def _neighbouring_bins(bins: _Bins) -> _BinPairs:
    # Offsets are numbered so that the opposite of one is as far behind the middle, the zero offset,
    # as it is before it: the second half has one of every two opposites.
    span = 2 * bins.reach + 1
    half = (span.prod(-1) // 2 + 1)[bins.frame]
    one = torch.repeat_interleave(half)
    frame = bins.frame[one]
    number = torch.arange(len(one), device=one.device) - (half.cumsum(0) - half)[one]
    number = number + half[one] - 1
    span, count = span[frame], bins.count[frame]
    offset = torch.stack(
        [
            number // (span[:, 1] * span[:, 2]),
            number // span[:, 2] % span[:, 1],
            number % span[:, 2],
        ],
        dim=-1,
    )
    place = bins.place[one] + offset - bins.reach[frame]
    image = place.div(count, rounding_mode="floor")
    wanted = _number(place - image * count, bins.start[frame], count)
    other = torch.searchsorted(bins.key, wanted).clamp(max=len(bins.key) - 1)
    there = (bins.key[other] == wanted) & (bins.pbc[frame] | (image == 0)).all(-1)
    return _BinPairs(one[there], other[there], image[there])


def _pairs_within(bins: _Bins, pairs: _BinPairs, r_max: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one of the two directions of every edge, (2, E/2), and its shifts (E/2, 3)."""
    # A row is an atom and a bin whose atoms are candidates.
    row = torch.repeat_interleave(bins.size[pairs.one])
    before = bins.size[pairs.one].cumsum(0) - bins.size[pairs.one]
    atom = bins.first[pairs.one][row] + torch.arange(len(row), device=row.device) - before[row]
    first, size = bins.first[pairs.other][row], bins.size[pairs.other][row]
    # Of a bin with itself, each atom takes those behind it.
    same = ((pairs.one == pairs.other) & (pairs.image == 0).all(-1))[row]
    end = first + size
    first = torch.where(same, atom + 1, first)
    size = end - first
    cells = bins.cells[bins.frame[pairs.one]]
    translation = torch.einsum("pi,pij->pj", pairs.image.double(), cells)
    origin = translation[row] - bins.points[atom]

    ends = size.cumsum(0)
    kept_rows, kept_others = [], []
    for begin, stop in _chunks(ends, _CHUNK.get(row.device.type, 1 << 20)):
        here = torch.repeat_interleave(size[begin:stop])
        skip = first[begin:stop] - (ends[begin:stop] - size[begin:stop] - _before(ends, begin))
        other = torch.arange(len(here), device=here.device) + skip[here]
        vector = bins.points.index_select(0, other) + origin[begin:stop].index_select(0, here)
        near = (vector.square().sum(-1) <= r_max**2).nonzero().squeeze(-1)
        kept_rows.append(here[near] + begin)
        kept_others.append(other[near])
    kept, other = torch.cat(kept_rows), torch.cat(kept_others)
    centre = atom[kept]
    shifts = pairs.image[row[kept]] + bins.wraps[centre] - bins.wraps[other]
    return torch.stack([bins.order[centre], bins.order[other]]), shifts


def _before(ends: torch.Tensor, row: int) -> torch.Tensor | int:
    return ends[row - 1] if row else 0


def _chunks(ends: torch.Tensor, chunk: int) -> list[tuple[int, int]]:
    """Return ranges of rows with about `chunk` candidates each; no row is split."""
    total = int(ends[-1])
    marks = torch.arange(chunk, max(total, chunk) + chunk, chunk, device=ends.device)
    stops = torch.searchsorted(ends, marks).add_(1).clamp_(max=len(ends)).tolist()
    bounds = sorted({0, len(ends), *stops})
    return list(itertools.pairwise(bounds))
