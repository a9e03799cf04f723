"""Modifiers: quantities computed from the fields of a batch, for statistics and metrics."""

from __future__ import annotations

import torch

from nequip_core.errors import ConfigError, DataError, closest
from nequip_core.fields import (
    BATCH_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    EDGE_LENGTH_KEY,
    NUM_NODES_KEY,
    POSITIONS_KEY,
    field_abbreviation,
    get_field_type,
)
from nequip_core.frames import Frame, num_nodes
from nequip_train.data.units import Units, field_unit

__all__ = [
    "BaseModifier",
    "EdgeLengths",
    "MappedFieldModifier",
    "NumNeighbors",
    "PerAtomModifier",
    "field_of",
]


def field_of(data: Frame, field: str, what: str = "the data") -> torch.Tensor:
    """Return a field of a batch.

    Raises:
        DataError: it is not there; the message lists what is.
    """
    if field not in data:
        raise DataError(
            f"{what} has no '{field}'{closest(field, list(data))} (it has {', '.join(data)})"
        )
    return data[field]


class BaseModifier:
    """The field itself; base class of modifiers, which override `__call__` and `__str__`.

    Args:
        field: name of a registered field.

    Attributes:
        field: that name; None where a modifier needs no particular field.
        type: ``graph``, ``node`` or ``edge``: what one row of the result belongs to.
    """

    def __init__(self, field: str) -> None:
        kind = get_field_type(field, error_on_unregistered=False)
        if kind is None:
            raise ConfigError(
                f"'{field}' is not a registered field; fields of your own are registered with "
                "nequip.data.register_fields"
            )
        self.field: str | None = field
        self.type = kind

    def __call__(self, data: Frame) -> torch.Tensor:
        """Return the quantity, one row a frame, atom or edge by `type`."""
        return field_of(data, str(self.field))

    @property
    def label_field(self) -> str | None:
        """Name of the field that labels need to have; None where they need no particular one."""
        return self.field

    def of_target(self, data: Frame) -> torch.Tensor:
        """Return the quantity of labels, where they have it under another name than the output."""
        return self(data)

    def unit(self, units: Units) -> str | None:
        """Return the unit of the quantity, "" if it has none, None if it is not known."""
        return field_unit(self.field, units)

    def __str__(self) -> str:
        """Return the short name that automatic names of metrics use."""
        return field_abbreviation(str(self.field))


class MappedFieldModifier(BaseModifier):
    """One field of a model's output against another field of the labels.

    Args:
        pred_field: name of the field of the output.
        target_field: name of the field of the labels, of the same kind.

    Raises:
        ConfigError: a field is not registered, or one is a node field and the other is not.
    """

    def __init__(self, pred_field: str, target_field: str) -> None:
        super().__init__(pred_field)
        other = BaseModifier(target_field)
        if other.type != self.type:
            raise ConfigError(
                f"MappedFieldModifier needs two fields of one kind, but '{pred_field}' is a "
                f"{self.type} field and '{target_field}' a {other.type} one"
            )
        self.target_field = target_field

    @property
    def label_field(self) -> str:
        """Name of the field of the labels."""
        return self.target_field

    def of_target(self, data: Frame) -> torch.Tensor:
        """Return the field of the labels."""
        return field_of(data, self.target_field)

    def __str__(self) -> str:
        """Return ``pred_<output>_label_<labels>``, both abbreviated."""
        return f"pred_{super().__str__()}_label_{field_abbreviation(self.target_field)}"


class PerAtomModifier(BaseModifier):
    """A graph field divided by the number of atoms of its frame.

    Args:
        field: name of a graph field, e.g. ``total_energy``.
        factor: factor to multiply with, e.g. for a change of unit.
    """

    def __init__(self, field: str, factor: float | None = None) -> None:
        super().__init__(field)
        if self.type != "graph":
            raise ConfigError(
                f"PerAtomModifier needs a graph field, '{field}' is a {self.type} one"
            )
        self.factor = factor

    def __call__(self, data: Frame) -> torch.Tensor:
        """Return field / number of atoms, (F, ...), in the field's unit."""
        value = super().__call__(data)
        if NUM_NODES_KEY in data:
            counts = data[NUM_NODES_KEY].view(-1, *[1] * (value.dim() - 1)).to(value.dtype)
            value = value / counts
        else:
            value = value / num_nodes(data)
        return value if self.factor is None else value * self.factor

    def unit(self, units: Units) -> str | None:
        """Return the field's unit by atom; not known where a factor changes it."""
        whole = super().unit(units)
        return f"{whole}/atom" if whole and self.factor is None else None

    def __str__(self) -> str:
        """Return ``per_atom_`` and the field's abbreviation."""
        return f"per_atom_{super().__str__()}"


class EdgeLengths(BaseModifier):
    """The lengths of the edges, (E, 1), in the unit of the positions."""

    def __init__(self) -> None:
        self.field = None
        self.type = "edge"

    def __call__(self, data: Frame) -> torch.Tensor:
        """Return the lengths; computed from the geometry where the batch does not have them."""
        if EDGE_LENGTH_KEY in data:
            return data[EDGE_LENGTH_KEY]
        centre, neighbour = field_of(data, EDGE_INDEX_KEY)
        vectors = data[POSITIONS_KEY][neighbour] - data[POSITIONS_KEY][centre]
        if EDGE_CELL_SHIFT_KEY in data:
            cell = data[CELL_KEY].view(-1, 3, 3)
            frame = data[BATCH_KEY][centre] if BATCH_KEY in data else torch.zeros_like(centre)
            vectors = vectors + torch.einsum("ei,eij->ej", data[EDGE_CELL_SHIFT_KEY], cell[frame])
        return vectors.norm(dim=-1, keepdim=True)

    def unit(self, units: Units) -> str | None:
        """Return the unit of lengths."""
        return field_unit(EDGE_LENGTH_KEY, units)

    def __str__(self) -> str:
        """Return ``edge_lengths``."""
        return EDGE_LENGTH_KEY


class NumNeighbors(BaseModifier):
    """The number of neighbours of every atom, (N, 1), dimensionless; 0 for an isolated atom."""

    def __init__(self) -> None:
        self.field = None
        self.type = "node"

    def __call__(self, data: Frame) -> torch.Tensor:
        """Return the numbers of edges by their centre."""
        centre = field_of(data, EDGE_INDEX_KEY)[0]
        counts = torch.bincount(centre, minlength=num_nodes(data))
        return counts.to(torch.float64).unsqueeze(-1)

    def unit(self, units: Units) -> str | None:
        """Return that it has none."""
        return ""

    def __str__(self) -> str:
        """Return ``num_neighbors``."""
        return "num_neighbors"
