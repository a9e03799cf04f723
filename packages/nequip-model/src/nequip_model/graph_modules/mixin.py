"""What every graph module states of itself, and how such modules are put in a row."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from e3nn.o3._irreps import Irreps

from nequip_core.fields import ATOM_TYPE_KEY, EDGE_INDEX_KEY, POSITIONS_KEY

__all__ = ["GraphModuleMixin", "SequentialGraphNetwork"]

# Fields with fixed irreps: positions are vectors, indices have none.
_FIXED: dict[str, Irreps | None] = {
    POSITIONS_KEY: Irreps("1x1o"),
    EDGE_INDEX_KEY: None,
    ATOM_TYPE_KEY: None,
}


def _parsed(irreps: Mapping[str, Any] | None) -> dict[str, Irreps | None]:
    """Return field -> irreps; the value None stands for a field that does not transform."""
    parsed = {
        field: None if value is None else Irreps(value) for field, value in (irreps or {}).items()
    }
    for field, fixed in _FIXED.items():
        if field in parsed and parsed[field] != fixed:
            raise ValueError(f"field '{field}' must have irreps {fixed}, got {parsed[field]}")
    return parsed


def _differing(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the fields that both name, with different irreps."""
    return [field for field in wanted if field in given and given[field] != wanted[field]]


class GraphModuleMixin:
    """A module that takes and returns a dictionary of fields and states their irreps.

    Inherit from it before `torch.nn.Module` and call `_init_irreps` in the constructor.

    Attributes:
        irreps_in: field -> irreps of the input, None for a field that does not transform.
        irreps_out: field -> irreps of the output; holds every input field.
    """

    # A mark instead of isinstance: the class of a packaged model is not the installed one.
    _is_graph_module_mixin = True

    irreps_in: dict[str, Irreps | None]
    irreps_out: dict[str, Irreps | None]

    def _init_irreps(
        self,
        irreps_in: Mapping[str, Any] | None = None,
        my_irreps_in: Mapping[str, Any] | None = None,
        required_irreps_in: Sequence[str] = (),
        irreps_out: Mapping[str, Any] | None = None,
    ) -> None:
        """Set `irreps_in` and `irreps_out`.

        Args:
            irreps_in: what comes in; positions, edge index and types always do.
            my_irreps_in: irreps that these fields must have where they come in.
            required_irreps_in: fields that must come in.
            irreps_out: fields that this module adds or changes.

        Raises:
            ValueError: a required field is missing, or irreps contradict each other.
        """
        given = {**_parsed(irreps_in), **_FIXED}
        wanted = _parsed(my_irreps_in)
        name = type(self).__name__
        for field in _differing(given, wanted):
            raise ValueError(
                f"{name} takes the field '{field}' with irreps {wanted[field]}, got {given[field]}"
            )
        for field in required_irreps_in:
            if field not in given:
                raise ValueError(
                    f"{name} needs the field '{field}' in irreps_in, which has {list(given)}"
                )
        self.irreps_in = given
        self.irreps_out = {**given, **_parsed(irreps_out)}

    def _add_independent_irreps(self, irreps: Mapping[str, Any]) -> None:
        """Let further fields through unchanged.

        Raises:
            ValueError: a field is already known with other irreps.
        """
        added = _parsed(irreps)
        for field in (*_differing(self.irreps_in, added), *_differing(self.irreps_out, added)):
            raise ValueError(f"field '{field}' has other irreps in {type(self).__name__}")
        self.irreps_in = {**self.irreps_in, **added}
        self.irreps_out = {**self.irreps_out, **added}

    def _get_metadata_contributions(self) -> dict[str, str]:
        """Return what this module adds to the model's metadata; nothing, unless overridden."""
        return {}


class SequentialGraphNetwork(GraphModuleMixin, torch.nn.Sequential):
    """Graph modules one after the other.

    Args:
        modules: name -> module in order, or a sequence, whose modules are named ``module0``,
            ``module1`` and so on.

    Raises:
        ValueError: there is no module, or one does not take what the one before it returns.
    """

    def __init__(self, modules: Mapping[str, Any] | Sequence[Any]) -> None:
        if not isinstance(modules, Mapping):
            modules = {f"module{place}": module for place, module in enumerate(modules)}
        if not modules:
            raise ValueError("a SequentialGraphNetwork needs at least one module")
        super().__init__()
        self._fill(modules.items())

    def _fill(self, named: Iterable[tuple[str, Any]]) -> None:
        """Make `named` the modules in their order."""
        listed = list(named)
        for (before, first), (after, second) in itertools.pairwise(listed):
            given, taken = _parsed(first.irreps_out), _parsed(second.irreps_in)
            for field in _differing(given, taken):
                raise ValueError(
                    f"'{before}' returns the field '{field}' with irreps {given[field]}, "
                    f"'{after}' takes {taken[field]}"
                )
        self._modules.clear()
        for name, module in listed:
            self.add_module(name, module)
        self._init_irreps(
            irreps_in=listed[0][1].irreps_in,
            irreps_out=listed[-1][1].irreps_out,
        )

    def append(self, name: str, module: Any) -> None:  # type: ignore[override]
        """Put `module` last.

        Raises:
            ValueError: the name is taken, or the irreps do not fit.
        """
        self._insert(len(self), name, module)

    def insert(  # type: ignore[override]
        self, name: str, module: Any, after: str | None = None, before: str | None = None
    ) -> None:
        """Put `module` next to another one.

        Args:
            name: of the new module.
            module: the new module.
            after: name of the module to put it behind, or else
            before: name of the module to put it in front of.

        Raises:
            ValueError: not exactly one neighbour is given, there is none of that name, the new
                name is taken, or the irreps do not fit.
        """
        names = list(self._modules)
        if (after is None) == (before is None):
            raise ValueError("give exactly one of 'after' and 'before'")
        neighbour = after if after is not None else before
        if neighbour not in names:
            raise ValueError(f"there is no module '{neighbour}', only {names}")
        self._insert(names.index(neighbour) + (after is not None), name, module)

    def _insert(self, place: int, name: str, module: Any) -> None:
        if name in self._modules:
            raise ValueError(f"there is already a module '{name}'")
        named = list(self._modules.items())
        named.insert(place, (name, module))
        self._fill(named)

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the data as the last module returns it."""
        for module in self:
            data = module(data)
        return data
