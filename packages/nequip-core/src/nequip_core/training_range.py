"""Which distances and numbers of neighbors occurred in a training set, and what lies outside.

A range is plain data, in the model's unit of length::

    {"shortest_distance": {"Cu": {"Cu": 2.31, "Au": 2.40}, "Au": {"Au": 2.55}},
     "neighbors": {"Cu": [10, 43], "Au": [12, 41]}}

``shortest_distance`` of a pair of types (each pair once, in the order of the types) is absent where
the two were never neighbors; ``neighbors`` are the fewest and the most within the cutoff, and a type
that did not occur is not in it.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nequip_core.fields import ATOM_TYPE_KEY, EDGE_INDEX_KEY
from nequip_core.frames import Frame, num_nodes
from nequip_core.neighbors import edge_vectors

__all__ = ["RangeRecorder", "outside"]


class RangeRecorder:
    """Takes in frames with types and neighbor lists, and gives the range of all.

    Args:
        type_names: the T type names in order.
    """

    def __init__(self, type_names: Sequence[str]) -> None:
        self.type_names = list(type_names)
        types = len(self.type_names)
        self.state = {
            "shortest": torch.full((types, types), math.inf, dtype=torch.float64),
            "fewest": torch.full((types,), math.inf, dtype=torch.float64),
            "most": torch.full((types,), -math.inf, dtype=torch.float64),
        }
        """Shortest distance by types of centre and neighbor; fewest and most neighbors by type."""

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take in what another recorder of the same types has taken in, as its `state`."""
        for key, value in state.items():
            choose = torch.maximum if key == "most" else torch.minimum
            self.state[key] = choose(self.state[key], value.cpu())

    def add(self, data: Frame) -> None:
        """Take in a frame or batch; one without types or a neighbor list is passed over."""
        if ATOM_TYPE_KEY not in data or EDGE_INDEX_KEY not in data:
            return
        measured = _measured(data, len(self.type_names))
        self.load(dict(zip(self.state, measured, strict=True)))

    def range(self) -> dict[str, Any]:
        """Return what has been taken in, see the module; empty for nothing."""
        distances: dict[str, dict[str, float]] = {}
        names, shortest = self.type_names, self.state["shortest"]
        for row, first in enumerate(names):
            for column in range(row, len(names)):
                found = float(min(shortest[row, column], shortest[column, row]))
                if math.isfinite(found):
                    distances.setdefault(first, {})[names[column]] = found
        neighbors = {
            name: [int(low), int(high)]
            for name, low, high in zip(names, self.state["fewest"], self.state["most"], strict=True)
            if math.isfinite(low)
        }
        return {"shortest_distance": distances, "neighbors": neighbors} if neighbors else {}


def _measured(data: Frame, types: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return shortest distances (T, T), fewest and most neighbors (T,), on the device."""
    kind = data[ATOM_TYPE_KEY].view(-1)
    centre, neighbour = data[EDGE_INDEX_KEY]
    lengths = edge_vectors(data).detach().norm(dim=-1).double()
    shortest = torch.full((types * types,), math.inf, dtype=torch.float64, device=kind.device)
    pair = kind[centre] * types + kind[neighbour]
    shortest.scatter_reduce_(0, pair, lengths, "amin")
    counts = torch.bincount(centre, minlength=num_nodes(data)).double()
    fewest = torch.full((types,), math.inf, dtype=torch.float64, device=kind.device)
    fewest.scatter_reduce_(0, kind, counts, "amin")
    most = torch.full((types,), -math.inf, dtype=torch.float64, device=kind.device)
    most.scatter_reduce_(0, kind, counts, "amax")
    return shortest.view(types, types), fewest, most


def outside(known: Mapping[str, Any], data: Frame, type_names: Sequence[str]) -> dict[str, str]:
    """Return what of a frame or batch lies outside of a range: what it is about -> one sentence.

    Args:
        known: a range, see the module; what it does not state, or not as it should, is not
            compared.
        data: with types and a neighbor list.
        type_names: the model's type names in order.
    """
    neighbors, distances = known.get("neighbors"), known.get("shortest_distance")
    if not isinstance(neighbors, Mapping) or not isinstance(distances, Mapping):
        return {}
    shortest, fewest, most = (part.tolist() for part in _measured(data, len(type_names)))
    found: dict[str, str] = {}
    for index, name in enumerate(type_names):
        if not math.isfinite(fewest[index]):
            continue
        limits = neighbors.get(name)
        if limits is None:
            found[f"type {name}"] = f"type '{name}' did not occur in the training set"
        elif _is_pair(limits) and not limits[0] <= fewest[index] <= most[index] <= limits[1]:
            number = most[index] if most[index] > limits[1] else fewest[index]
            found[f"neighbors {name}"] = (
                f"an atom of type '{name}' has {int(number)} neighbors, in the training set "
                f"{int(limits[0])} to {int(limits[1])}"
            )
    for row, first in enumerate(type_names):
        for column in range(row, len(type_names)):
            second = type_names[column]
            near = min(shortest[row][column], shortest[column][row])
            limit = _distance(distances, first, second)
            if limit is not None and near < limit:
                found[f"distance {first} {second}"] = (
                    f"a distance {first}-{second} is {near:.4g}, the shortest in the training set "
                    f"{limit:.4g} (the model's unit of length)"
                )
    return found


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(isinstance(number, int | float) for number in value)
    )


def _distance(distances: Mapping[str, Any], first: str, second: str) -> float | None:
    row = distances.get(first)
    value = row.get(second) if isinstance(row, Mapping) else None
    return float(value) if isinstance(value, int | float) else None
