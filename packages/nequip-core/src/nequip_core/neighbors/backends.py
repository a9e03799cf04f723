"""The table of neighbor-list backends: built in, registered, or offered by a distribution."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nequip_core.errors import ConfigError, closest
from nequip_core.frames import Frame
from nequip_core.neighbors.numpy_backends import (
    ase_neighbors,
    matscipy_neighbors,
    per_frame,
    vesin_neighbors,
)
from nequip_core.neighbors.torch_backend import torch_neighbors
from nequip_core.plugins import NEIGHBOR_BACKENDS, load_plugin, plugin_names

__all__ = [
    "DEFAULT_BACKEND",
    "DEFAULT_NEIGHBORLIST_BACKEND",
    "NEIGHBORLIST_BACKEND_ALCHEMIOPS",
    "NEIGHBORLIST_BACKEND_ASE",
    "NEIGHBORLIST_BACKEND_MATSCIPY",
    "NEIGHBORLIST_BACKEND_OPTIONS",
    "NEIGHBORLIST_BACKEND_TORCH",
    "NEIGHBORLIST_BACKEND_VESIN",
    "NeighborlistBackendSpec",
    "neighborlist_backend",
    "register_neighborlist_backend",
    "require_options",
]

NEIGHBORLIST_BACKEND_ASE = "ase"
NEIGHBORLIST_BACKEND_MATSCIPY = "matscipy"
NEIGHBORLIST_BACKEND_VESIN = "vesin"
NEIGHBORLIST_BACKEND_TORCH = "torch"
NEIGHBORLIST_BACKEND_ALCHEMIOPS = "alchemiops"
DEFAULT_NEIGHBORLIST_BACKEND = NEIGHBORLIST_BACKEND_VESIN
DEFAULT_BACKEND = DEFAULT_NEIGHBORLIST_BACKEND


@dataclass(frozen=True)
class NeighborlistBackendSpec:
    """A backend that works on frames and batches.

    ``fn(data, r_max) -> data`` adds ``edge_index`` (2, E) and ``edge_cell_shift`` (E, 3), whole
    numbers, to a frame or a batch without edges; their order and dtype are free. It may change
    `data`, which is a shallow copy, and must leave the tensors in it alone. Further arguments are
    options, which come from ``backend_kwargs``.
    """

    fn: Callable[..., Frame]
    supports_cpu: bool = True
    supports_cuda: bool = False


NEIGHBORLIST_BACKEND_OPTIONS: dict[str, NeighborlistBackendSpec] = {
    NEIGHBORLIST_BACKEND_ASE: NeighborlistBackendSpec(per_frame(ase_neighbors)),
    NEIGHBORLIST_BACKEND_MATSCIPY: NeighborlistBackendSpec(per_frame(matscipy_neighbors)),
    NEIGHBORLIST_BACKEND_VESIN: NeighborlistBackendSpec(per_frame(vesin_neighbors)),
    NEIGHBORLIST_BACKEND_TORCH: NeighborlistBackendSpec(torch_neighbors, supports_cuda=True),
}
"""Backends by name: the built-in ones, those registered, and plugins once they were used."""


def register_neighborlist_backend(
    backend: str,
    fn: Callable[..., Frame],
    supports_cpu: bool = True,
    supports_cuda: bool = False,
    overwrite: bool = False,
) -> None:
    """Add a backend to `NEIGHBORLIST_BACKEND_OPTIONS`.

    Args:
        backend: its name.
        fn: what finds the edges, see `NeighborlistBackendSpec`.
        supports_cpu: whether it takes data on the CPU.
        supports_cuda: whether it takes data on a CUDA device; otherwise data go through the CPU.
        overwrite: replace a backend of the same name.

    Raises:
        ConfigError: the name is taken, or no device is supported.
    """
    if not (supports_cpu or supports_cuda):
        raise ConfigError(f"the neighbor-list backend '{backend}' must support the CPU or CUDA")
    if backend in NEIGHBORLIST_BACKEND_OPTIONS and not overwrite:
        raise ConfigError(
            f"there is a neighbor-list backend '{backend}' already; take another name, or replace "
            "it with overwrite=True"
        )
    spec = NeighborlistBackendSpec(fn, supports_cpu, supports_cuda)
    NEIGHBORLIST_BACKEND_OPTIONS[backend] = spec


def neighborlist_backend(name: str) -> NeighborlistBackendSpec:
    """Return a backend by name; a plugin is loaded once.

    Raises:
        ConfigError: there is no such backend.
        PluginError: a plugin of that name fails to import, or two distributions offer it.
    """
    spec = NEIGHBORLIST_BACKEND_OPTIONS.get(name)
    if spec is not None:
        return spec
    offered = plugin_names(NEIGHBOR_BACKENDS)
    if name in offered:
        found = load_plugin(NEIGHBOR_BACKENDS, name)
        spec = found
        if not isinstance(found, NeighborlistBackendSpec):
            spec = NeighborlistBackendSpec(per_frame(found))
        NEIGHBORLIST_BACKEND_OPTIONS[name] = spec
        return spec
    known = sorted({*NEIGHBORLIST_BACKEND_OPTIONS, *offered})
    advice = closest(name, known)
    if name == NEIGHBORLIST_BACKEND_ALCHEMIOPS:
        advice = "; 'torch' works on CUDA devices and on whole batches as well"
    raise ConfigError(f"no neighbor-list backend '{name}', there are {', '.join(known)}{advice}")


def require_options(name: str, spec: NeighborlistBackendSpec, options: Iterable[str]) -> None:
    """Raise an error if a backend does not take one of the options.

    Raises:
        ConfigError: it does not; the message has those that there are.
    """
    parameters = list(inspect.signature(spec.fn).parameters.values())[2:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"backend_kwargs: the neighbor-list backend '{name}' has no option '{option}', "
                f"only {', '.join(known)}{closest(option, known)}"
                if known
                else f"backend_kwargs: the neighbor-list backend '{name}' has no options, got "
                f"'{option}'"
            )
