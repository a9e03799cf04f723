"""Two neighbor-list backends against each other."""

from __future__ import annotations

from typing import Any

from nequip_core.ase_conversion import from_ase
from nequip_core.fields import EDGE_CELL_SHIFT_KEY, EDGE_INDEX_KEY
from nequip_core.frames import Frame
from nequip_core.neighbors import compute_neighborlist_
from nequip_model.testing.comparison import fail

__all__ = ["compare_neighborlists"]


def _edges(frame: Frame) -> list[tuple[int, ...]]:
    """Return (centre, neighbour, three shifts) of every edge, sorted."""
    rows = frame[EDGE_INDEX_KEY].T.tolist()
    shifts = frame[EDGE_CELL_SHIFT_KEY].long().tolist() if EDGE_CELL_SHIFT_KEY in frame else None
    return sorted(tuple(row + (shifts[i] if shifts else [])) for i, row in enumerate(rows))


def compare_neighborlists(atoms_or_data: Any, nl1: str, nl2: str, r_max: float) -> None:
    """Check that two backends find the same edges.

    Args:
        atoms_or_data: ``ase.Atoms`` or a frame.
        nl1: name of a backend.
        nl2: name of another.
        r_max: cutoff radius, length.

    Raises:
        AssertionError: an edge is in one list and not in the other, or not as often.
    """
    data = atoms_or_data if isinstance(atoms_or_data, dict) else from_ase(atoms_or_data)
    bare = {key: value for key, value in data.items() if "edge" not in key}
    one, other = (_edges(compute_neighborlist_(dict(bare), r_max, nl)) for nl in (nl1, nl2))
    if one != other:
        only = [sorted(set(a) - set(b))[:3] for a, b in ((one, other), (other, one))]
        fail(
            "neighbor lists",
            f"{nl1} has {len(one)} edges, {nl2} {len(other)}; (centre, neighbour, shift) only in "
            f"{nl1}: {only[0]}, only in {nl2}: {only[1]}",
        )
