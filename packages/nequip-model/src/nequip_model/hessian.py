"""Second derivatives of the energy by positions: Hessians and their products with vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from nequip_core.errors import ConfigError, DataError
from nequip_core.fields import (
    BATCH_KEY,
    EDGE_VECTORS_KEY,
    NUM_NODES_KEY,
    POSITIONS_KEY,
    TOTAL_ENERGY_KEY,
)
from nequip_core.frames import Frame

__all__ = ["hessian", "hessian_vector_product"]


def hessian_vector_product(
    model: torch.nn.Module, data: Frame, vectors: torch.Tensor
) -> torch.Tensor:
    """Return the Hessian times displacements, in the shape of `vectors`, energy / length^2.

    H[ia, jb] = d2E / dpos[i, a] dpos[j, b], of a frame with a fixed cell: for a periodic one, of
    displacements that are equal in every cell. Memory grows with the number of edges, and does not
    with that of the vectors.

    Args:
        model: a graph model, in train or eval mode; it is afterwards as it was before.
        data: one frame with its neighbor list, on the model's device.
        vectors: one displacement (N, 3), or several (K, N, 3), of any unit.

    Raises:
        DataError: `data` is not one frame with positions, or `vectors` do not fit it.
        ConfigError: the model's energy cannot be differentiated.
    """
    atoms = _num_atoms(data)
    if vectors.dim() not in (2, 3) or tuple(vectors.shape[-2:]) != (atoms, 3):
        raise DataError(
            f"vectors must be ({atoms}, 3) or (K, {atoms}, 3), got {tuple(vectors.shape)}"
        )
    with torch.enable_grad():
        positions, gradient = _energy_gradient(model, data)
        listed = vectors.reshape(-1, atoms, 3).to(gradient)
        products = [_product(gradient, positions, vector) for vector in listed]
    return torch.stack(products).reshape(vectors.shape) if products else torch.zeros_like(vectors)


def hessian(
    model: torch.nn.Module, data: Frame, progress: Callable[[int, int], None] | None = None
) -> torch.Tensor:
    """Return the Hessian (3N, 3N), energy / length^2; row and column 3 i + a are atom i, axis a.

    See `hessian_vector_product`. One row is computed at a time: besides the result, memory grows
    with the number of edges only.

    Args:
        model: a graph model, in train or eval mode; it is afterwards as it was before.
        data: one frame with its neighbor list, on the model's device.
        progress: called after every row with the rows done and the rows in all.

    Raises:
        DataError: `data` is not one frame with positions.
        ConfigError: the model's energy cannot be differentiated.
    """
    size = 3 * _num_atoms(data)
    with torch.enable_grad():
        positions, gradient = _energy_gradient(model, data)
        result = gradient.new_zeros((size, size)).detach()
        unit = torch.zeros_like(result[:1]).reshape(-1)
        for row in range(size):
            unit.zero_()[row] = 1.0
            result[row] = _product(gradient, positions, unit.view(-1, 3)).reshape(-1)
            if progress is not None:
                progress(row + 1, size)
    return result


def _num_atoms(data: Frame) -> int:
    if EDGE_VECTORS_KEY in data:
        raise DataError("second derivatives are by 'pos'; give a frame without 'edge_vectors'")
    if POSITIONS_KEY not in data:
        raise DataError(f"second derivatives need 'pos', the data has {sorted(data)}")
    frames = data[NUM_NODES_KEY].numel() if NUM_NODES_KEY in data else 1
    if frames > 1 or (BATCH_KEY in data and bool((data[BATCH_KEY] != 0).any())):
        raise DataError(f"second derivatives are of one frame at a time, got a batch of {frames}")
    return int(data[POSITIONS_KEY].shape[0])


def _energy_gradient(model: torch.nn.Module, data: Frame) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions and dE/dpos (N, 3), which can be differentiated by them."""
    positions = data[POSITIONS_KEY].detach().to(torch.float64).requires_grad_(True)
    with _energy_only(model):
        energy = model({**data, POSITIONS_KEY: positions}).get(TOTAL_ENERGY_KEY)
    if energy is None or not energy.requires_grad:
        raise ConfigError(
            "the model's 'total_energy' cannot be differentiated by positions; second derivatives "
            "need a model that is not compiled"
        )
    (gradient,) = torch.autograd.grad([energy.sum()], [positions], create_graph=True)
    return positions, gradient


@contextlib.contextmanager
def _energy_only(model: torch.nn.Module) -> Iterator[None]:
    """Have the model compute the energy, with its history, and no derivatives inside."""
    switched = [m for m in model.modules() if getattr(m, "do_derivatives", False)]
    try:
        for module in switched:
            module.do_derivatives = False  # type: ignore[assignment]
        yield
    finally:
        for module in switched:
            module.do_derivatives = True  # type: ignore[assignment]


def _product(gradient: torch.Tensor, positions: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Return the derivative of ``gradient . vector`` by positions, (N, 3)."""
    if not gradient.requires_grad:  # no atom has a neighbour
        return torch.zeros_like(positions)
    (product,) = torch.autograd.grad(
        [gradient], [positions], [vector], retain_graph=True, allow_unused=True
    )
    return torch.zeros_like(positions) if product is None else product
