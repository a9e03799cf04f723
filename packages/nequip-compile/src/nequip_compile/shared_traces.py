"""What targets share: those with the same inputs are traced and evaluated once for all of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch.fx import GraphModule

from nequip_compile.verify import Reference
from nequip_core.compile_targets import CompileTarget
from nequip_core.frames import Frame

__all__ = ["reference_for", "sharing_targets", "trace_for", "union_target"]


def sharing_targets(targets: Sequence[CompileTarget]) -> list[list[CompileTarget]]:
    """Return the targets in groups of the same inputs, made from structures in the same way."""
    groups: dict[tuple[object, ...], list[CompileTarget]] = {}
    for target in targets:
        key = (target.inputs, target.dynamic_frames, target.prepare)
        groups.setdefault(key, []).append(target)
    return list(groups.values())


def union_target(targets: Sequence[CompileTarget]) -> CompileTarget:
    """Return the target with every output of a group of `sharing_targets`."""
    outputs = dict.fromkeys(name for target in targets for name in target.outputs)
    name = ", ".join(target.name for target in targets)
    return replace(targets[0], name=name, outputs=tuple(outputs))


def trace_for(target: CompileTarget, trace: GraphModule, outputs: Sequence[str]) -> GraphModule:
    """Return the part of a trace that computes the outputs of `target`.

    Args:
        target: one of the group that was traced.
        trace: see `nequip_compile.export.trace_model`; it stays as it is.
        outputs: field of each output of the trace.
    """
    if tuple(outputs) == target.outputs:
        return trace
    part = GraphModule(trace, copy.deepcopy(trace.graph))
    output = part.graph.output_node()
    found = dict(zip(outputs, output.args[0], strict=True))  # type: ignore[arg-type]
    output.args = ([found[name] for name in target.outputs],)
    part.graph.eliminate_dead_code()
    part.delete_all_unused_submodules()
    part.recompile()
    return part


def reference_for(
    target: CompileTarget, references: Mapping[str, Reference]
) -> dict[str, Reference]:
    """Return references with the outputs of `target` only, in its order.

    Args:
        target: one of the group that was evaluated.
        references: what the eager model gives for all outputs of the group.
    """

    def kept(fields: Frame) -> Frame:
        return {name: fields[name] for name in target.outputs}

    return {
        title: replace(
            one,
            outputs=kept(one.outputs),
            isolated=kept(one.isolated),
            exact=None if one.exact is None else kept(one.exact),
        )
        for title, one in references.items()
    }
