"""Models that take and return tensors by position in place of dictionaries, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = [
    "DictInputOutputWrapper",
    "ListInputOutputStateDictWrapper",
    "ListInputOutputWrapper",
]

Data = dict[str, torch.Tensor]


def _named(keys: Sequence[str], tensors: Sequence[torch.Tensor], what: str) -> Data:
    """Return the tensors by their names.

    Raises:
        ValueError: there are more or fewer tensors than names.
    """
    if len(keys) != len(tensors):
        raise ValueError(f"{len(keys)} {what} {list(keys)} and {len(tensors)} tensors")
    return dict(zip(keys, tensors, strict=True))


def _flat(args: Sequence[Any]) -> Sequence[torch.Tensor]:
    """Return positional tensors, which may be given as one list."""
    if len(args) == 1 and isinstance(args[0], list | tuple):
        return args[0]
    return args


def _in_order(keys: Sequence[str], data: Data, whose: str) -> list[torch.Tensor]:
    """Return the fields in order.

    Raises:
        KeyError: one is missing.
    """
    missing = [key for key in keys if key not in data]
    if missing:
        raise KeyError(f"{whose} lacks {missing}, it has {sorted(data)}")
    return [data[key] for key in keys]


class ListInputOutputWrapper(torch.nn.Module):
    """``model(dict) -> dict`` as ``wrapper(*tensors) -> list``, or ``wrapper([...]) -> list``.

    Args:
        model: from a dictionary of fields to one.
        input_keys: field of each positional argument.
        output_keys: field of each returned tensor.
    """

    def __init__(
        self, model: torch.nn.Module, input_keys: Sequence[str], output_keys: Sequence[str]
    ) -> None:
        super().__init__()
        self.model = model
        self.input_keys = list(input_keys)
        self.output_keys = list(output_keys)

    def forward(self, *args: Any) -> list[torch.Tensor]:
        """Return the output fields in order.

        Raises:
            ValueError: there are more or fewer arguments than input fields.
            KeyError: the model returns no such output field.
        """
        data = self.model(_named(self.input_keys, _flat(args), "input fields"))
        return _in_order(self.output_keys, data, "the model's output")


class ListInputOutputStateDictWrapper(ListInputOutputWrapper):
    """The same with weights and buffers as arguments, behind the input fields.

    What is given stands in for the model's own during the call; those stay as they are.

    Args:
        model: from a dictionary of fields to one.
        input_keys: field of each of the first positional arguments.
        output_keys: field of each returned tensor.
        state_dict_keys: name in ``model.state_dict()`` of each argument behind them.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        input_keys: Sequence[str],
        output_keys: Sequence[str],
        state_dict_keys: Sequence[str],
    ) -> None:
        super().__init__(model, input_keys, output_keys)
        self.state_dict_keys = list(state_dict_keys)

    def forward(self, *args: Any) -> list[torch.Tensor]:
        """Return the output fields in order.

        Raises:
            ValueError: there are more or fewer arguments than input fields and state.
            KeyError: the model returns no such output field.
        """
        tensors, fields = list(_flat(args)), len(self.input_keys)
        data = _named(self.input_keys, tensors[:fields], "input fields")
        state = _named(self.state_dict_keys, tensors[fields:], "names of the state dict")
        out = torch.func.functional_call(self.model, state, (data,))
        return _in_order(self.output_keys, out, "the model's output")


class DictInputOutputWrapper(torch.nn.Module):
    """``model([...]) -> list`` as ``wrapper(dict) -> dict``; undoes `ListInputOutputWrapper`.

    Args:
        model: from one list of tensors to a sequence of tensors.
        input_keys: field of each tensor of the list.
        output_keys: field of each returned tensor.
    """

    def __init__(
        self, model: torch.nn.Module, input_keys: Sequence[str], output_keys: Sequence[str]
    ) -> None:
        super().__init__()
        self.model = model
        self.input_keys = list(input_keys)
        self.output_keys = list(output_keys)

    def forward(self, data: Data) -> Data:
        """Return the output fields; other fields of the input are not used and do not come out.

        Raises:
            KeyError: an input field is missing.
            ValueError: the model returns more or fewer tensors than there are output fields.
        """
        out = self.model(_in_order(self.input_keys, data, "the data"))
        return _named(self.output_keys, out, "output fields")
