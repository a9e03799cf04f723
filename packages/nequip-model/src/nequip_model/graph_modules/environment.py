"""Names of dtypes, logging, and the documented entry to a global state that nothing here writes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from collections.abc import Iterator, MutableMapping
from contextvars import ContextVar
from typing import Any, Final

import torch

__all__ = [
    "RankedLogger",
    "conditional_torchscript_jit",
    "conditional_torchscript_mode",
    "dtype_from_name",
    "dtype_to_name",
    "find_first_of_type",
    "floating_point_tolerance",
    "get_current_code_versions",
    "get_latest_global_state",
    "global_state_initialized",
    "set_global_state",
    "torch_default_dtype",
]

# dtype of positions, cells, energies and their derivatives, whatever the dtype of the weights.
_GLOBAL_DTYPE: Final = torch.float64

TF32_KEY: Final = "allow_tf32"

_DTYPES = {"float32": torch.float32, "float64": torch.float64}

_TOLERANCES = {torch.float32: 5e-5, torch.float64: 1e-12}

_SCRIPTING: ContextVar[bool] = ContextVar("nequip_conditional_torchscript", default=False)

# Other libraries whose version decides what a model computes; extensions come by their entry point.
_LIBRARIES = ("torch", "e3nn", "nequip-core", "nequip-model", "nequip")


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


def floating_point_tolerance(model_dtype: str | torch.dtype) -> float:
    """Return by how much outputs of one model may differ: 1e-12 in float64, 5e-5 in float32.

    Absolute and relative tolerance both, for a model run in two ways.

    Raises:
        ValueError: there is no such dtype.
    """
    return _TOLERANCES[dtype_from_name(model_dtype)]


@contextlib.contextmanager
def conditional_torchscript_mode(enabled: bool) -> Iterator[None]:
    """Have `conditional_torchscript_jit` script modules inside, or not; also e3nn's own code."""
    from e3nn import get_optimization_defaults, set_optimization_defaults

    before = get_optimization_defaults()
    token = _SCRIPTING.set(enabled)
    try:
        set_optimization_defaults(jit_mode="script" if enabled else "eager", jit_script_fx=enabled)
        yield
    finally:
        set_optimization_defaults(**before)
        _SCRIPTING.reset(token)


def conditional_torchscript_jit(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module, scripted within `conditional_torchscript_mode(True)`."""
    return torch.jit.script(module) if _SCRIPTING.get() else module


def get_current_code_versions(verbose: bool = True) -> dict[str, str]:
    """Return the versions of the libraries, and of the extensions, that make models here.

    Args:
        verbose: log them as well.
    """
    versions = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    for entry in importlib.metadata.entry_points(group="nequip.extension"):
        if entry.dist is not None:
            versions[entry.value] = entry.dist.version
    if verbose:
        for name, version in versions.items():
            logging.getLogger(__name__).info("%s %s", name, version)
    return versions


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
