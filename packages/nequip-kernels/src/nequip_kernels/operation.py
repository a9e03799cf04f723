"""The registered operation: what eager autograd, tracing and compilation see of the kernels.

Three operators, ``nequip_kernels::nequip_convolution``, ``nequip_convolution_by_features`` and
``nequip_convolution_by_edges``, are the partial derivatives of one form that is linear in gradient,
features, harmonics and weights (see `nequip_kernels.reference`). The derivatives of each are calls
of the others, so every order of differentiation runs on the same kernels.

``nequip_radial_convolution`` takes the two factors of the weights in place of these, so that no
tensor has a row of weights for every edge. Its first derivatives are one operator,
``nequip_radial_convolution_backward``; where they are to be differentiated again, or the second
factor's is asked for, it is differentiated by the three above. ``nequip_table_convolution`` does
the same for weights that come from a table.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from nequip_kernels.compiler import BuildError
from nequip_kernels.cpu import REALS, CpuKernel, cpu_kernel
from nequip_kernels.reference import Reference, table_weights
from nequip_kernels.signature import Signature

__all__ = ["Operation", "signature_of_digest"]

_LOG = logging.getLogger(__name__)
_SIGNATURES: dict[str, Signature] = {}

_EDGES = "Tensor harmonics, Tensor weights, Tensor centre, Tensor neighbour, str signature"
_RADIAL_EDGES = _EDGES.replace("Tensor weights", "Tensor hidden, Tensor matrix")
_TABLE_EDGES = _EDGES.replace("Tensor weights", "Tensor places, Tensor rows")
_SCHEMAS = {
    "nequip_convolution": f"(Tensor features, {_EDGES}) -> Tensor",
    "nequip_convolution_by_features": f"(Tensor gradient, {_EDGES}) -> Tensor",
    "nequip_convolution_by_edges": (
        f"(Tensor gradient, Tensor features, {_EDGES}) -> (Tensor, Tensor)"
    ),
    "nequip_radial_convolution": f"(Tensor features, {_RADIAL_EDGES}) -> Tensor",
    "nequip_radial_convolution_backward": (
        f"(Tensor gradient, Tensor features, {_RADIAL_EDGES}) -> (Tensor, Tensor, Tensor)"
    ),
    "nequip_table_convolution": f"(Tensor features, {_TABLE_EDGES}) -> Tensor",
    "nequip_table_convolution_backward": (
        f"(Tensor gradient, Tensor features, {_TABLE_EDGES}) -> (Tensor, Tensor, Tensor)"
    ),
}
for _name, _schema in _SCHEMAS.items():
    torch.library.define(f"nequip_kernels::{_name}", _schema)


class Operation:
    """A convolution of one signature; a call is one operator, whatever it is traced or run by.

    Args:
        signature: what it computes.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        # The operators take text: the signature is looked up by its digest.
        _SIGNATURES[signature.digest] = signature

    def __call__(
        self,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        weights: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> torch.Tensor:
        """Return the sums over each node's edges, (N, num_out).

        Args:
            features: (N, num_in).
            harmonics: (E, num_sh).
            weights: (E, num_weights).
            centre: (E,) node that receives.
            neighbour: (E,) node that sends.

        Raises:
            IndexError: an edge has a node that there is not.
            ValueError: a tensor has another shape or dtype.
        """
        return torch.ops.nequip_kernels.nequip_convolution(
            features, harmonics, weights, centre, neighbour, self.signature.digest
        )

    def of_hidden(
        self,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        hidden: torch.Tensor,
        matrix: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> torch.Tensor:
        """Return the sums for the weights ``hidden @ matrix``, which are in no tensor.

        Args:
            features: (N, num_in).
            harmonics: (E, num_sh).
            hidden: (E, H).
            matrix: (H, num_weights).
            centre: (E,) node that receives.
            neighbour: (E,) node that sends.

        Raises:
            IndexError: an edge has a node that there is not.
            ValueError: a tensor has another shape or dtype.
        """
        return torch.ops.nequip_kernels.nequip_radial_convolution(
            features, harmonics, hidden, matrix, centre, neighbour, self.signature.digest
        )

    def of_table(
        self,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        places: torch.Tensor,
        rows: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> torch.Tensor:
        """Return the sums for the weights of `nequip_kernels.reference.table_weights`.

        Args:
            features: (N, num_in).
            harmonics: (E, num_sh).
            places: (E,), float64.
            rows: (3 (n + 1), num_weights); no derivatives by these.
            centre: (E,) node that receives.
            neighbour: (E,) node that sends.

        Raises:
            IndexError: an edge has a node that there is not.
            ValueError: a tensor has another shape or dtype.
        """
        return torch.ops.nequip_kernels.nequip_table_convolution(
            features, harmonics, places, rows, centre, neighbour, self.signature.digest
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy, also one in another process, announce its signature."""
        return Operation, (self.signature,)


def _functions(tensor: torch.Tensor, digest: str) -> CpuKernel | Reference:
    """Return what computes on the device and in the dtype of a tensor."""
    signature = signature_of_digest(digest)
    if tensor.device.type == "cpu" and tensor.dtype in REALS:
        try:
            return cpu_kernel(signature, tensor.dtype)
        except BuildError as error:
            if digest not in _SAID:
                _SAID.add(digest)
                _LOG.warning("a convolution runs on plain torch, which is slower: %s", error)
    return Reference(signature)


_SAID: set[str] = set()


def signature_of_digest(digest: str) -> Signature:
    """Return what an operator of this process stands for.

    Raises:
        RuntimeError: no such convolution was made in this process.
    """
    found = _SIGNATURES.get(digest)
    if found is None:
        raise RuntimeError(
            f"no convolution with the signature {digest} was made in this process; apply the "
            "modifier to the model again"
        )
    return found


def _forward(features: torch.Tensor, *rest: Any) -> torch.Tensor:
    return _functions(features, rest[-1]).forward(features, *rest[:-1])


def _by_features(gradient: torch.Tensor, *rest: Any) -> torch.Tensor:
    return _functions(gradient, rest[-1]).by_features(gradient, *rest[:-1])


def _by_edges(gradient: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return _functions(gradient, rest[-1]).by_edges(gradient, *rest[:-1])


def _radial(features: torch.Tensor, *rest: Any) -> torch.Tensor:
    return _functions(features, rest[-1]).radial_forward(features, *rest[:-1])


def _radial_by_all(
    gradient: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _functions(gradient, rest[-1]).radial_backward(gradient, *rest[:-1])


def _table(features: torch.Tensor, *rest: Any) -> torch.Tensor:
    return _functions(features, rest[-1]).table_forward(features, *rest[:-1])


def _table_by_all(
    gradient: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _functions(gradient, rest[-1]).table_backward(gradient, *rest[:-1])


def _shape_of_forward(features: torch.Tensor, *rest: Any) -> torch.Tensor:
    return features.new_empty((features.shape[0], signature_of_digest(rest[-1]).num_out))


def _shape_by_features(gradient: torch.Tensor, *rest: Any) -> torch.Tensor:
    return gradient.new_empty((gradient.shape[0], signature_of_digest(rest[-1]).num_in))


def _shapes_by_edges(
    gradient: torch.Tensor,
    features: torch.Tensor,
    harmonics: torch.Tensor,
    weights: torch.Tensor,
    *rest: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    return harmonics.new_empty(harmonics.shape), weights.new_empty(weights.shape)


def _shapes_by_all(
    gradient: torch.Tensor,
    features: torch.Tensor,
    harmonics: torch.Tensor,
    hidden: torch.Tensor,
    *rest: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        features.new_empty(features.shape),
        harmonics.new_empty(harmonics.shape),
        hidden.new_empty(hidden.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    *tensors, ctx.signature = inputs
    ctx.save_for_backward(*tensors)


def _sum(*terms: torch.Tensor | None) -> torch.Tensor | None:
    """Return the sum of what there is, None if there is nothing."""
    found = [term for term in terms if term is not None]
    return None if not found else sum(found[1:], found[0])


def _backward_of_forward(ctx: Any, gradient: torch.Tensor | None) -> tuple[Any, ...]:
    x, y, w, *edges = ctx.saved_tensors
    ops, to_x, to_edges = torch.ops.nequip_kernels, *_wanted(ctx, 0, (1, 2))
    if gradient is None:
        return (None,) * 6
    by_x = by_y = by_w = None
    if to_x:
        by_x = ops.nequip_convolution_by_features(gradient, y, w, *edges, ctx.signature)
    if to_edges:
        by_y, by_w = ops.nequip_convolution_by_edges(gradient, x, y, w, *edges, ctx.signature)
    return by_x, by_y, by_w, None, None, None


def _backward_by_features(ctx: Any, vector: torch.Tensor | None) -> tuple[Any, ...]:
    """Differentiate <vector, dT/dx>; the vector takes the place of the features."""
    g, y, w, *edges = ctx.saved_tensors
    ops, to_g, to_edges = torch.ops.nequip_kernels, *_wanted(ctx, 0, (1, 2))
    if vector is None:
        return (None,) * 6
    by_g = by_y = by_w = None
    if to_g:
        by_g = ops.nequip_convolution(vector, y, w, *edges, ctx.signature)
    if to_edges:
        by_y, by_w = ops.nequip_convolution_by_edges(g, vector, y, w, *edges, ctx.signature)
    return by_g, by_y, by_w, None, None, None


def _backward_by_edges(
    ctx: Any, by_y_vector: torch.Tensor | None, by_w_vector: torch.Tensor | None
) -> tuple[Any, ...]:
    """Differentiate <vy, dT/dY> + <vw, dT/dw>: vy in the place of Y, and vw in that of w."""
    g, x, y, w, *edges = ctx.saved_tensors
    ops, vy, vw, key = torch.ops.nequip_kernels, by_y_vector, by_w_vector, ctx.signature
    by_g = by_x = by_y = by_w = None
    if vy is None and vw is None:
        return (None,) * 7
    pairs = [(a, b) for a, b in ((vy, w), (y, vw)) if a is not None and b is not None]
    if ctx.needs_input_grad[0]:
        by_g = _sum(*(ops.nequip_convolution(x, a, b, *edges, key) for a, b in pairs))
    if ctx.needs_input_grad[1]:
        by_x = _sum(*(ops.nequip_convolution_by_features(g, a, b, *edges, key) for a, b in pairs))
    if any(ctx.needs_input_grad[2:4]):
        # One call for both: dT/dY does not read Y, nor dT/dw w.
        a = torch.zeros_like(y) if vy is None else vy
        b = torch.zeros_like(w) if vw is None else vw
        by_y, by_w = ops.nequip_convolution_by_edges(g, x, a, b, *edges, key)
        by_y, by_w = (None if vw is None else by_y), (None if vy is None else by_w)
    return by_g, by_x, by_y, by_w, None, None, None


def _backward_of_radial(ctx: Any, gradient: torch.Tensor | None) -> tuple[Any, ...]:
    """Differentiate once by one kernel, or by those whose derivatives there are."""
    x, y, h, matrix, *edges = ctx.saved_tensors
    ops, key, needs = torch.ops.nequip_kernels, ctx.signature, ctx.needs_input_grad
    if gradient is None:
        return (None,) * 7
    by_matrix_too = _asked_for(ctx, _MATRIX)
    if not torch.is_grad_enabled() and not by_matrix_too:
        found = ops.nequip_radial_convolution_backward(gradient, x, y, h, matrix, *edges, key)
        by_x, by_y, by_h = (
            one if need else None for one, need in zip(found, needs[:3], strict=True)
        )
        return by_x, by_y, by_h, None, None, None, None
    w = h @ matrix
    by_x = by_y = by_h = by_matrix = None
    if needs[0]:
        by_x = ops.nequip_convolution_by_features(gradient, y, w, *edges, key)
    if needs[1] or needs[2] or by_matrix_too:
        by_y, by_w = ops.nequip_convolution_by_edges(gradient, x, y, w, *edges, key)
        by_h = by_w @ matrix.t() if needs[2] else None
        by_matrix = h.t() @ by_w if by_matrix_too else None
    return by_x, by_y, by_h, by_matrix, None, None, None


def _backward_of_table(ctx: Any, gradient: torch.Tensor | None) -> tuple[Any, ...]:
    """Differentiate once by one kernel, or by those whose derivatives there are."""
    x, y, places, rows, *edges = ctx.saved_tensors
    ops, key, needs = torch.ops.nequip_kernels, ctx.signature, ctx.needs_input_grad
    if gradient is None:
        return (None,) * 7
    if not torch.is_grad_enabled():
        found = ops.nequip_table_convolution_backward(gradient, x, y, places, rows, *edges, key)
        by_x, by_y, by_p = (
            one if need else None for one, need in zip(found, needs[:3], strict=True)
        )
        return by_x, by_y, by_p, None, None, None, None
    w = table_weights(places, rows)
    by_x = by_y = by_p = None
    if needs[0]:
        by_x = ops.nequip_convolution_by_features(gradient, y, w, *edges, key)
    if needs[1] or needs[2]:
        by_y, by_w = ops.nequip_convolution_by_edges(gradient, x, y, w, *edges, key)
        if needs[2]:
            (by_p,) = torch.autograd.grad(w, [places], by_w, create_graph=True)
    return by_x, by_y, by_p, None, None, None, None


# Place of the matrix among the arguments of nequip_radial_convolution.
_MATRIX = 3


def _asked_for(ctx: Any, place: int) -> bool:
    """Return whether this backward pass goes on from a tensor, which is among the first arguments.

    Weights of a model require a gradient always; who asks for forces does not ask for theirs.
    """
    if not ctx.needs_input_grad[place]:
        return False
    try:
        return bool(torch._C._will_engine_execute_node(ctx.next_functions[place][0]))
    except (AttributeError, RuntimeError):
        # RuntimeError: it is a leaf, and its gradient is what is asked for.
        return True


def _wanted(ctx: Any, node: int, edge: tuple[int, int]) -> tuple[bool, bool]:
    """Return whether the gradient by the tensor of nodes, and by those of edges, is asked for."""
    needs = ctx.needs_input_grad
    return needs[node], any(needs[place] for place in edge)


_IMPLEMENTATIONS: dict[str, tuple[Any, Any, Any]] = {
    "nequip_convolution": (_forward, _shape_of_forward, _backward_of_forward),
    "nequip_convolution_by_features": (_by_features, _shape_by_features, _backward_by_features),
    "nequip_convolution_by_edges": (_by_edges, _shapes_by_edges, _backward_by_edges),
    "nequip_radial_convolution": (_radial, _shape_of_forward, _backward_of_radial),
    "nequip_radial_convolution_backward": (_radial_by_all, _shapes_by_all, None),
    "nequip_table_convolution": (_table, _shape_of_forward, _backward_of_table),
    "nequip_table_convolution_backward": (_table_by_all, _shapes_by_all, None),
}
for _name, (_run, _shape, _backward) in _IMPLEMENTATIONS.items():
    torch.library.impl(f"nequip_kernels::{_name}", "default")(_run)
    torch.library.register_fake(f"nequip_kernels::{_name}")(_shape)
    if _backward is not None:
        torch.library.register_autograd(f"nequip_kernels::{_name}", _backward, setup_context=_save)
