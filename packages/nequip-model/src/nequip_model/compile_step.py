"""One step of training as two compiled graphs: forward, forces included, and backward.

Forces are a gradient, and a loss on forces needs the gradient of that gradient. Both are traced at
once by torch's own automatic differentiation, outputs and gradients of the weights as one graph of
tensor operations, which is then cut into a forward and a backward part. A trace of the forward
pass alone could not be differentiated afterwards: what the pass keeps for its own backward, the
result of a tanh for example, stands detached in the trace, and the second gradient would lack that
part without any sign of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from nequip_core.fields import EDGE_INDEX_KEY, EDGE_TRANSPOSE_PERM_KEY, get_field_type

__all__ = ["CompiledStep", "Sizes", "dynamic_axis", "frame_sizes"]

Data = dict[str, torch.Tensor]
Sizes = dict[str, int]
"""Number of atoms (``node``), edges (``edge``) and frames (``graph``)."""

# Fields without a kind that have an entry an edge, along this axis.
_OF_EDGES = {EDGE_INDEX_KEY: (1, "edge"), EDGE_TRANSPOSE_PERM_KEY: (0, "edge")}

_OPTIONS: dict[str, Any] = {
    # Sums over edges by torch's kernel: the compiler's own can write outside of the result on
    # several threads of a CPU (https://github.com/pytorch/pytorch/issues/191837).
    "cpp.fallback_scatter_reduce_sum": True,
}


def frame_sizes(data: Mapping[str, torch.Tensor]) -> Sizes:
    """Return how many atoms, edges and frames there are."""
    frames = data["num_atoms"].shape[0] if "batch" in data else 1
    return {
        "node": data["atom_types"].numel(),
        "edge": data[EDGE_INDEX_KEY].shape[1],
        "graph": frames,
    }


def dynamic_axis(key: str, tensor: torch.Tensor, sizes: Sizes) -> tuple[int, str] | None:
    """Return the axis of a field that changes from call to call and what it counts, or None.

    Args:
        key: the field.
        tensor: its values.
        sizes: of the data it is part of.
    """
    axis, kind = _OF_EDGES.get(key, (0, get_field_type(key, error_on_unregistered=False)))
    if kind not in sizes or tensor.dim() <= axis or tensor.shape[axis] != sizes[kind]:
        return None
    # Compilers treat 0 and 1 as constants: one frame is a case of its own.
    return None if sizes[kind] < 2 else (axis, kind)


class CompiledStep:
    """The compiled call of a module on fields of one signature, whatever the numbers of atoms.

    Args:
        call: from named weights, named buffers and fields to fields; runs the module.
        parameters: the module's weights by name.
        buffers: its buffers by name.
        data: example of the fields, more than one atom and edge.

    Raises:
        Exception: whatever torch raises for what it cannot trace or compile.
        ValueError: no output depends on a weight.

    Attributes:
        outputs: names of the computed fields.
    """

    def __init__(
        self,
        call: Callable[[Data, Data, Data], Data],
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
        data: Data,
    ) -> None:
        self._weights = list(parameters)
        self._buffers = list(buffers)
        self._fields = list(data)
        trace = _Trace(call, parameters, buffers, data)
        forward, backward = trace.graphs()
        self.outputs = trace.outputs
        self._differentiable = trace.differentiable
        self._trainable = trace.trainable
        self._inputs = _placeholders(forward)
        self._needed = _placeholders(backward)
        self._extra = _keep_computed(forward, len(self.outputs), set(self._inputs))
        self._forward = trace.compile(forward)
        self._backward = trace.compile(backward)
        self._symbols, self._guards = trace.guards()

    def fits(self, sizes: Sizes) -> bool:
        """Return whether the compiled code is right for these numbers of atoms and edges."""
        values = {symbol: sizes[kind] for kind, symbol in self._symbols.items()}
        return all(bool(guard.xreplace(values)) for guard in self._guards)

    def __call__(
        self,
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
        data: Data,
    ) -> Data:
        """Return the computed fields, differentiable with respect to the weights."""
        primals = [
            *(parameters[name] for name in self._weights),
            *(buffers[name] for name in self._buffers),
            *(data[name] for name in self._fields),
        ]
        return dict(zip(self.outputs, _Step.apply(self, *primals), strict=True))


class _Step(torch.autograd.Function):
    """The two graphs as one differentiable operation."""

    @staticmethod
    def forward(ctx: Any, step: CompiledStep, *primals: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = [tensor.detach().contiguous() for tensor in primals]
        results = step._forward(*given)
        outputs, extra = results[: len(step.outputs)], results[len(step.outputs) :]
        known = {**dict(zip(step._inputs, given, strict=True)), **dict(zip(step._extra, extra))}  # noqa: B905 - checked by the graph
        kept = [name for name in step._needed if name in known]
        tensors = [name for name in kept if isinstance(known[name], torch.Tensor)]
        ctx.save_for_backward(*(known[name] for name in tensors))
        ctx.step, ctx.tensors = step, tensors
        ctx.numbers = {name: known[name] for name in kept if name not in tensors}
        ctx.mark_non_differentiable(
            *(o for o, grad in zip(outputs, step._differentiable, strict=True) if not grad)
        )
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        step = ctx.step
        known = {**dict(zip(ctx.tensors, ctx.saved_tensors, strict=True)), **ctx.numbers}
        wanted = [g for g, grad in zip(gradients, step._differentiable, strict=True) if grad]
        known.update({f"tangents_{place}": g for place, g in enumerate(wanted, start=1)})
        arguments = [
            value.contiguous() if isinstance(value, torch.Tensor) else value
            for value in (known[name] for name in step._needed)
        ]
        found = iter(step._backward(*arguments))
        by_weight = [next(found) if trainable else None for trainable in step._trainable]
        return (None, *by_weight, *([None] * (len(step._buffers) + len(step._fields))))


class _Trace:
    """Tracing with symbolic numbers of atoms, edges and frames, everything else constant."""

    def __init__(
        self,
        call: Callable[[Data, Data, Data], Data],
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
        data: Data,
    ) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        self._call = call
        self._names = (list(parameters), list(buffers), list(data))
        # Without duck shapes: two frames are not the two rows of the edge index.
        self._shapes = ShapeEnv(duck_shape=False)
        self._mode = FakeTensorMode(shape_env=self._shapes, allow_non_fake_inputs=True)
        self._sizes: dict[str, Any] = {}
        self.trainable = [tensor.requires_grad for tensor in parameters.values()]
        sizes = frame_sizes(data)
        self._primals = [
            *(
                self._mode.from_tensor(tensor, static_shapes=True)
                for tensor in (*parameters.values(), *buffers.values())
            ),
            *(self._field(key, tensor, sizes) for key, tensor in data.items()),
        ]
        self.outputs: list[str] = []
        with self._mode:
            probe = self._run(self._primals)
            self.differentiable = [tensor.requires_grad for tensor in probe]
            self._tangents = [torch.empty_like(o.detach()) for o in probe if o.requires_grad]
        if not self._tangents:
            raise ValueError("no output depends on a weight that is trained")

    def _field(self, key: str, tensor: torch.Tensor, sizes: Sizes) -> torch.Tensor:
        """Return a field without values, its changing axis symbolic and shared with its kind."""
        shape: list[Any] = list(tensor.shape)
        found = dynamic_axis(key, tensor, sizes)
        if found is not None:
            axis, kind = found
            shape[axis] = self._size(kind, sizes[kind])
        with self._mode:
            return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)

    def _size(self, kind: str, value: int) -> Any:
        from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

        if kind not in self._sizes:
            context: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
            row = self._mode.from_tensor(torch.empty(value), symbolic_context=context)
            self._sizes[kind] = row.shape[0]
        return self._sizes[kind]

    def _run(self, primals: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the computed fields; an input field that was converted counts as computed."""
        weights, buffers, fields = self._names
        end = len(weights) + len(buffers)
        data = dict(zip(fields, primals[end:], strict=True))
        out = self._call(
            dict(zip(weights, primals[: len(weights)], strict=True)),
            dict(zip(buffers, primals[len(weights) : end], strict=True)),
            dict(data),
        )
        # A view of an input cannot leave an autograd function, nor one tensor under two names.
        computed = {key: value for key, value in out.items() if value is not data.get(key)}
        self.outputs[:] = list(computed)
        seen: set[int] = set()
        results = []
        for key, value in computed.items():
            results.append(value.clone() if key in data or id(value) in seen else value)
            seen.add(id(value))
        return results

    def _joint(
        self, primals: Sequence[torch.Tensor], tangents: Sequence[torch.Tensor]
    ) -> list[torch.Tensor | None]:
        """Return the computed fields, then the gradient of their product with `tangents`."""
        results = self._run(primals)
        weights = [tensor for tensor, wanted in zip(primals, self.trainable) if wanted]  # noqa: B905 - weights come first
        gradients = torch.autograd.grad(
            [tensor for tensor in results if tensor.requires_grad],
            weights,
            list(tangents),
            allow_unused=True,
        )
        return [*results, *gradients]

    def graphs(self) -> tuple[torch.fx.GraphModule, torch.fx.GraphModule]:
        """Return the forward and the backward graph."""
        from functorch.compile import min_cut_rematerialization_partition
        from torch._dispatch.python import enable_python_dispatcher
        from torch.fx.experimental.proxy_tensor import make_fx

        with self._mode, enable_python_dispatcher():
            # Functions without `self`; the second one's names are those of the graph's inputs, by
            # which it is cut.
            joint = make_fx(lambda primals, tangents: self._joint(primals, tangents))(
                self._primals, self._tangents
            )
            joint.graph.eliminate_dead_code()
            joint.recompile()
            arguments = (
                [tensor.detach() for tensor in self._primals],
                [tensor.detach() for tensor in self._tangents],
            )
            functional = torch.func.functionalize(
                lambda primals, tangents: joint(primals, tangents), remove="mutations"
            )
            with torch.no_grad():
                joint = make_fx(functional, decomposition_table={**_by_scatter()})(*arguments)
        joint.graph.eliminate_dead_code()
        joint.recompile()
        return min_cut_rematerialization_partition(
            joint, arguments, num_fwd_outputs=len(self.outputs)
        )

    def compile(self, graph: torch.fx.GraphModule) -> Callable[..., Any]:
        """Return the compiled graph, for contiguous tensors."""
        examples = []
        with self._mode, torch.no_grad():
            for node in graph.graph.nodes:
                if node.op != "placeholder":
                    continue
                value = node.meta["val"]
                if isinstance(value, torch.Tensor):
                    value = torch.empty(value.shape, dtype=value.dtype, device=value.device)
                    node.meta["val"] = value
                examples.append(value)
        with torch._guards.tracing(torch._guards.TracingContext(self._mode)):
            return torch._inductor.standalone_compile(
                graph,
                examples,
                dynamic_shapes="from_tracing_context",
                options={"config_patches": _OPTIONS},
            )

    def guards(self) -> tuple[dict[str, Any], list[Any]]:
        """Return the symbol of each size, and what tracing and compiling supposed of them."""
        symbols = {kind: size.node._expr for kind, size in self._sizes.items()}
        return symbols, [guard.expr for guard in self._shapes.guards]


def _placeholders(graph: torch.fx.GraphModule) -> list[str]:
    return [node.name for node in graph.graph.nodes if node.op == "placeholder"]


def _keep_computed(forward: torch.fx.GraphModule, outputs: int, inputs: set[str]) -> list[str]:
    """Take from the graph's results the inputs that the backward pass needs; name what is left."""
    (end,) = (node for node in forward.graph.nodes if node.op == "output")
    results = list(end.args[0])
    extra = [node for node in results[outputs:] if node.name not in inputs]
    end.args = ((*results[:outputs], *extra),)
    forward.recompile()
    return [node.name for node in extra]


def _by_scatter() -> dict[Any, Callable[..., Any]]:
    def index_add(
        base: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, *, alpha: Any = 1
    ) -> torch.Tensor:
        shape = [1] * source.dim()
        shape[dim] = -1
        scaled = source if alpha == 1 else source * alpha
        return base.scatter_add(dim, index.view(shape).expand(source.shape), scaled)

    return {torch.ops.aten.index_add.default: index_add}
