"""How much may be computed and stored while a model is built from a description out of a file.

A few characters of a description can ask for any number of weights. What the installed builder
makes of them is watched, and the build is given up once it exceeds what a model with the weights of
the file could need.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nequip_core.errors import FileFormatError

__all__ = ["BuildLimits"]

_OPERATIONS = 1_000_000  # models of today take some 3 000 to 100 000
_BYTES = 2**30
_BYTES_A_BYTE = 16  # of the stored weights; models of today take 2 to 4


class BuildLimits(TorchDispatchMode):
    """Inside, tensors may be made only as fits the weights of a file.

    Args:
        where: the file and model, for messages.
        weights: the weights that the file holds.

    Raises:
        FileFormatError: inside, at the operation that exceeds a limit.
    """

    def __init__(self, where: str, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._where = where
        self._operations = _OPERATIONS
        self._bytes = _BYTES + _BYTES_A_BYTE * sum(tensor.nbytes for tensor in weights.values())

    def watch(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Return the result of an operation within the limits."""
        self._operations -= 1
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.name == "size":  # looked at before it is allocated and filled
                self._require(math.prod(value) <= self._bytes)
        result = func(*args, **(kwargs or {}))
        if not func.is_view and not func._schema.is_mutable:
            made = result if isinstance(result, list | tuple) else [result]
            self._bytes -= sum(part.nbytes for part in made if isinstance(part, torch.Tensor))
        self._require(self._bytes >= 0 and self._operations >= 0)
        return result

    def _require(self, fits: bool) -> None:
        if not fits:
            raise FileFormatError(
                f"{self._where} asks for a far larger model than the one whose weights it holds; "
                "do not use it"
            )


# Given in the body of the class, torch wraps it so that the first call imports its compiler, which
# takes seconds. Nothing is compiled while a model is built.
BuildLimits.__torch_dispatch__ = BuildLimits.watch  # type: ignore[assignment]
