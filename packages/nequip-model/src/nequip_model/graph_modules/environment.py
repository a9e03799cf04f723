"""Names of dtypes, logging, and the documented entry to a global state that nothing here writes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, MutableMapping
from typing import Any, Final

import torch

__all__ = [
    "RankedLogger",
    "dtype_from_name",
    "dtype_to_name",
    "find_first_of_type",
    "get_latest_global_state",
    "global_state_initialized",
    "set_global_state",
    "torch_default_dtype",
]

# dtype of positions, cells, energies and their derivatives, whatever the dtype of the weights.
_GLOBAL_DTYPE: Final = torch.float64

TF32_KEY: Final = "allow_tf32"

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def dtype_from_name(name: str | torch.dtype) -> torch.dtype:
    """Return the dtype of a name, ``float32`` or ``float64``; a dtype is returned as it is.

    Raises:
        ValueError: there is no such name.
    """
    if isinstance(name, torch.dtype):
        return name
    if name not in _DTYPES:
        raise ValueError(f"the dtype must be one of {list(_DTYPES)}, got {name!r}")
    return _DTYPES[name]


def dtype_to_name(name: str | torch.dtype) -> str:
    """Return the name of a dtype; a name is returned as it is."""
    return name if isinstance(name, str) else str(name).removeprefix("torch.")


@contextlib.contextmanager
def torch_default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Have `dtype` as torch's default dtype inside, and what was before it afterwards."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        yield
    finally:
        torch.set_default_dtype(before)


def find_first_of_type(module: torch.nn.Module, kind: type) -> torch.nn.Module | None:
    """Return the first submodule of a class, the module itself included, or None."""
    return next((found for found in module.modules() if isinstance(found, kind)), None)


def set_global_state(allow_tf32: bool = False, warn_on_override: bool = False) -> None:
    """Do nothing: models carry their dtype with them and no global state is needed.

    Callers of the documented interface run unchanged.

    Raises:
        ValueError: TF32 is asked for, which is the caller's to switch on in torch.
    """
    if allow_tf32:
        raise ValueError(
            "set_global_state writes no global state: call "
            "torch.set_float32_matmul_precision('high') to allow TF32"
        )


def global_state_initialized() -> bool:
    """Return True: there is no state that would have to be set first."""
    return True


def get_latest_global_state(only_metadata_related: bool = False) -> dict[str, Any]:
    """Return what torch does now: whether float32 matrix products may use TF32."""
    return {TF32_KEY: torch.get_float32_matmul_precision() != "highest"}


class RankedLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose messages name the process in distributed training.

    Args:
        name: of the logger.
        rank_zero_only: log from the first process only.
        extra: see `logging.LoggerAdapter`.
    """

    def __init__(
        self,
        name: str = __name__,
        rank_zero_only: bool = False,
        extra: MutableMapping[str, object] | None = None,
    ) -> None:
        super().__init__(logging.getLogger(name), extra or {})
        self.rank_zero_only = rank_zero_only

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - name of the standard library
        """Return whether this process logs messages of `level`."""
        return super().isEnabledFor(level) and not (self.rank_zero_only and _rank() > 0)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Return the message with its rank, where there is more than one process."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return (f"[rank {_rank()}] {msg}" if distributed else msg), kwargs


def _rank() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return 0
