"""From a model with forces by autograd to an exported program with dynamic sizes.

`torch.export` does not look through ``torch.autograd.grad``, so the model is traced to plain
tensor operations first, the backward pass included, and the trace is exported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from nequip_compile.sizes import ANY_SIZES, Size, Sizes
from nequip_core.compile_targets import CompileTarget
from nequip_core.errors import CompileError, ConfigError
from nequip_core.fields import EDGE_INDEX_KEY, get_field_type
from nequip_core.frames import Frame

__all__ = [
    "ListInputOutput",
    "dynamic_shapes",
    "export_model",
    "export_trace",
    "target_inputs",
    "trace_model",
]


class ListInputOutput(torch.nn.Module):
    """A model that takes and returns tensors by position in place of dictionaries.

    Args:
        model: a graph model, ``dict -> dict``.
        inputs: field of each positional argument.
        outputs: field of each returned tensor.
    """

    def __init__(
        self, model: torch.nn.Module, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)

    def forward(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Return the output fields in order, detached from autograd.

        Raises:
            ConfigError: the model does not compute one of the output fields.
        """
        data = self.model(dict(zip(self.inputs, tensors, strict=True)))
        missing = [name for name in self.outputs if name not in data]
        if missing:
            raise ConfigError(
                f"the model does not compute the output fields {missing}; from the input fields "
                f"{list(self.inputs)} it returns {sorted(set(data) - set(self.inputs))}"
            )
        return [data[name].detach() for name in self.outputs]


def target_inputs(target: CompileTarget, data: Frame) -> tuple[torch.Tensor, ...]:
    """Return the input tensors of `data` in the order of `target`, contiguous.

    Raises:
        ConfigError: `data` lacks an input field.
    """
    missing = [name for name in target.inputs if name not in data]
    if missing:
        raise ConfigError(
            f"target '{target.name}' takes the input fields {missing}, which are not made from a "
            f"structure; available: {sorted(data)}"
        )
    return tuple(data[name].contiguous() for name in target.inputs)


def dynamic_shapes(target: CompileTarget, bounds: Sizes = ANY_SIZES) -> tuple[dict[int, Any], ...]:
    """Return, for each input of `target`, which axes change their size from call to call.

    Atoms and edges do, frames where the target says so, unless `bounds` say that they are static.
    Sizes below 2 are outside the declared range, because export treats 0 and 1 as constants, but
    compiled models take them: `nequip_compile.verify` checks it with an atom without neighbors.
    """
    sizes: dict[str, Any] = {
        "node": _dimension("num_nodes", bounds.nodes),
        "edge": _dimension("num_edges", bounds.edges),
        "graph": _dimension("num_frames", bounds.frames) if target.dynamic_frames else None,
    }
    shapes: list[dict[int, Any]] = []
    for name in target.inputs:
        edges = name == EDGE_INDEX_KEY
        kind = "edge" if edges else str(get_field_type(name, error_on_unregistered=False))
        size = sizes.get(kind)
        shapes.append({} if size is None else {1 if edges else 0: size})
    return tuple(shapes)


def _dimension(name: str, size: Size) -> Any:
    if size.static:
        return None
    most = None if math.isinf(size.most) else int(size.most)
    return Dim(name, min=max(2, size.least), max=most)


def export_model(
    model: torch.nn.Module,
    target: CompileTarget,
    examples: Sequence[Frame],
    bounds: Sizes = ANY_SIZES,
) -> ExportedProgram:
    """Return the exported program of `model` for `target`.

    Args:
        model: a graph model in eval mode whose parameters need no gradient, on the device to
            compile for.
        target: input and output fields.
        examples: prepared data on the same device, two or more of different sizes. Each is
            traced; traces that differ mean that a size was taken for a constant.
        bounds: sizes that the program is for.

    Raises:
        CompileError: the model cannot be traced, its traces differ, or export fails.
        ConfigError: the target asks for fields that there are not.
    """
    return export_trace(trace_model(model, target, examples), target, examples[0], bounds)


def export_trace(
    trace: GraphModule, target: CompileTarget, example: Frame, bounds: Sizes = ANY_SIZES
) -> ExportedProgram:
    """Return the exported program of a trace by `trace_model`.

    Args:
        trace: what it does.
        target: its inputs.
        example: prepared data, of sizes within `bounds`.
        bounds: sizes that the program is for.

    Raises:
        CompileError: export fails.
    """
    try:
        with torch.no_grad():
            return torch.export.export(
                trace,
                target_inputs(target, example),
                dynamic_shapes=dynamic_shapes(target, bounds),
                strict=False,
            )
    except Exception as error:
        raise CompileError(f"the traced model cannot be exported: {error}") from error


def trace_model(
    model: torch.nn.Module, target: CompileTarget, examples: Sequence[Frame]
) -> GraphModule:
    """Return the operations of `model` for `target` with symbolic sizes, by position.

    Args and errors: as of `export_model`.
    """
    wrapper = ListInputOutput(model, target.inputs, target.outputs)
    arguments = [target_inputs(target, example) for example in examples]
    traces = [_trace(wrapper, tensors) for tensors in arguments]
    for index, trace in enumerate(traces[1:], start=1):
        if trace.code != traces[0].code:
            sizes = [[tuple(t.shape) for t in arguments[i]] for i in (0, index)]
            raise CompileError(
                "the model does different operations for inputs of different sizes, so it cannot "
                f"be compiled once for all; input shapes {sizes[0]} against {sizes[1]}"
            )
    return traces[0]


def _trace(wrapper: ListInputOutput, tensors: tuple[torch.Tensor, ...]) -> GraphModule:
    """Return the operations of one call, the backward pass included, with symbolic sizes."""
    try:
        return make_fx(
            wrapper,
            decomposition_table={torch.ops.aten.index_add.default: _index_add_by_scatter},
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
        )(*tensors)
    except ConfigError:
        raise
    except Exception as error:
        raise CompileError(
            f"the model cannot be traced ({type(error).__name__}: {error}); models are traced with "
            "symbolic sizes, so no Python branch may depend on a tensor's values"
        ) from error


def _index_add_by_scatter(
    base: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, *, alpha: float = 1
) -> torch.Tensor:
    """Return ``base.index_add(dim, index, source, alpha=alpha)`` by a scatter.

    The compiler's own code for ``index_add`` on several CPU threads can write outside of the
    result (https://github.com/pytorch/pytorch/issues/191837); a scatter becomes a call of torch's
    kernel, whose sums also do not depend on the order of threads.
    """
    shape = [1] * source.dim()
    shape[dim] = -1
    scaled = source if alpha == 1 else source * alpha
    return base.scatter_add(dim, index.view(shape).expand(source.shape), scaled)
