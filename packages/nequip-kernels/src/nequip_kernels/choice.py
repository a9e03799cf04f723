"""Which backend computes a model's convolutions: asked for by name, or the fastest that runs here.

| backend | computes with | where |
|---|---|---|
| `cpu` | C++ generated for the layer and compiled on first use | CPU, float32 and float64 |
| `reference` | plain torch | any device and dtype |
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from nequip_core.errors import ConfigError, closest
from nequip_kernels.compiler import BuildError
from nequip_kernels.cpu import REALS, prepare_cpu_kernels
from nequip_kernels.operation import Operation
from nequip_kernels.signature import signature_of

__all__ = ["AUTO", "BACKENDS", "convolutions"]

AUTO = "auto"
"""Asks for the fastest backend that runs."""

BACKENDS = ("cpu", "reference")
"""Names of the backends, fastest first."""

_LOG = logging.getLogger("nequip_kernels")


def convolutions(
    layers: Sequence[Mapping[str, Any]],
    device: torch.device,
    dtype: torch.dtype,
    backend: str = AUTO,
) -> list[Callable[..., torch.Tensor] | None]:
    """Return a callable for each layer, or None for layers that are to use their own code.

    One line of the logger ``nequip_kernels`` says which backend runs: at level INFO, or WARNING if
    a faster one was wanted and does not run. This is the entry ``convolution`` of the group
    ``nequip.kernels``.

    Args:
        layers: for each convolution the arguments of `nequip_kernels.signature.signature_of`.
        device: where the model is.
        dtype: of features, harmonics and weights.
        backend: a name of `BACKENDS`, or `AUTO`.

    Returns:
        Functions ``(features, harmonics, weights, centre, neighbour) -> sums``, see
        `nequip_kernels.operation.Operation`.

    Raises:
        ConfigError: the backend is unknown, or was asked for by name and does not run here.
    """
    if backend not in (AUTO, *BACKENDS):
        names = [AUTO, *BACKENDS]
        raise ConfigError(
            f"backend must be one of {names}, got {backend!r}{closest(backend, names)}"
        )
    signatures = [signature_of(**layer) for layer in layers]
    what = f"{len(signatures)} convolutions in {str(dtype).removeprefix('torch.')}"
    if backend == "reference":
        _LOG.info("%s run on plain torch, as asked for", what)
        return [None] * len(signatures)
    reason = _why_not_cpu(device, dtype)
    if not reason:
        try:
            prepare_cpu_kernels(signatures, dtype)
        except BuildError as error:
            reason = str(error)
    if reason and backend != AUTO:
        raise ConfigError(f"the kernels '{backend}' do not run here: {reason}")
    if reason:
        _LOG.warning("%s run on plain torch, which is slower: %s", what, reason)
        return [None] * len(signatures)
    threads = torch.get_num_threads()
    _LOG.info("%s run on kernels compiled for this CPU, with up to %d threads", what, threads)
    return [Operation(signature) for signature in signatures]


def _why_not_cpu(device: torch.device, dtype: torch.dtype) -> str:
    """Return why there is no kernel for a device or dtype, empty if there may be one."""
    if device.type != "cpu":
        return f"there are kernels for the CPU only, and the model is on '{device}'"
    if dtype not in REALS:
        return f"there are kernels for {[str(one) for one in REALS]}, the model is in {dtype}"
    return ""
