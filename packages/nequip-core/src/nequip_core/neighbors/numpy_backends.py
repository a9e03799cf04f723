"""Backends of one frame on numpy arrays; see `nequip_core.neighbors` for the shapes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from packaging.version import Version

from nequip_core.distributions import distribution_version
from nequip_core.errors import MissingDependencyError
from nequip_core.fields import EDGE_CELL_SHIFT_KEY, EDGE_INDEX_KEY, NUM_NODES_KEY, POSITIONS_KEY
from nequip_core.frames import Frame
from nequip_core.neighbors.geometry import periodicity

__all__ = ["Backend", "ase_neighbors", "matscipy_neighbors", "per_frame", "vesin_neighbors"]

Backend = Callable[[np.ndarray, np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray]]


@contextlib.contextmanager
def _library(name: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(
            f"the neighbor-list backend '{name}' needs {name}, which does not import ({error}): "
            f"pip install {name}, or choose the backend 'torch', which needs no library"
        ) from error


def vesin_neighbors(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, r_max: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return edges by vesin's cell list; linear in atoms."""
    with _library("vesin"):
        from vesin import NeighborList

    # One thread: the list is a small part of a step, and workers must not oversubscribe the cores.
    calculator = NeighborList(cutoff=r_max, full_list=True, sorted=False, n_threads=1)
    centre, neighbour, shifts = calculator.compute(
        points=positions, box=cell, periodic=pbc, quantities="ijS"
    )
    return np.stack([centre, neighbour]).astype(np.int64, copy=False), shifts


def matscipy_neighbors(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, r_max: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return edges by matscipy's cell list; linear in atoms."""
    with _library("matscipy"):
        from matscipy.neighbours import neighbour_list

    _require_right_matscipy()
    centre, neighbour, shifts = neighbour_list(
        "ijS", cutoff=r_max, positions=positions, cell=cell, pbc=pbc
    )
    return np.stack([centre, neighbour]).astype(np.int64, copy=False), shifts


@functools.cache
def _require_right_matscipy() -> None:
    """Check that matscipy is 1.3 or newer.

    Raises:
        MissingDependencyError: it is older.
    """
    version = distribution_version("matscipy")
    if version is not None and Version(version) < Version("1.3"):
        raise MissingDependencyError(
            f"the neighbor-list backend 'matscipy' needs matscipy 1.3 or newer, this is {version}, "
            "which gives wrong shifts for atoms far outside of their cell: "
            "pip install 'matscipy>=1.3', or choose the backend 'vesin'"
        )


def ase_neighbors(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, r_max: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return edges by ASE's list in pure Python; slow."""
    with _library("ase"):
        from ase.neighborlist import primitive_neighbor_list

    centre, neighbour, shifts = primitive_neighbor_list(
        "ijS", pbc=pbc, cell=cell, positions=positions, cutoff=r_max, self_interaction=False
    )
    return np.stack([centre, neighbour]).astype(np.int64, copy=False), shifts


def per_frame(find: Backend) -> Callable[[Frame, float], Frame]:
    """Return ``fn(data, r_max) -> data`` that calls `find` for each frame of a batch."""

    def neighbors(data: Frame, r_max: float) -> Frame:
        points = data[POSITIONS_KEY].detach().cpu().numpy().astype(np.float64, copy=False)
        cells, pbc = periodicity(data)
        counts = data[NUM_NODES_KEY].tolist() if NUM_NODES_KEY in data else [len(points)]
        edges, shifts, start = [np.zeros((2, 0), np.int64)], [np.zeros((0, 3), np.int64)], 0
        for frame, count in enumerate(counts):
            if count > 0:
                inside = points[start : start + count]
                found, images = find(inside, cells[frame], pbc[frame], r_max)
                edges.append(found + start if start else found)
                shifts.append(images)
            start += count
        data[EDGE_INDEX_KEY] = torch.from_numpy(_joined(edges, axis=1))
        data[EDGE_CELL_SHIFT_KEY] = torch.from_numpy(_joined(shifts, axis=0))
        return data

    return neighbors


def _joined(parts: list[np.ndarray], axis: int) -> np.ndarray:
    # The list of one big frame is not copied for the sake of the empty part before it.
    return parts[1] if len(parts) == 2 else np.concatenate(parts, axis=axis)
