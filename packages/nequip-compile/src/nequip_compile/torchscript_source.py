"""TorchScript source text of a traced model.

`torch.jit` can neither script a module that chooses its operations in Python nor trace one with
symbolic sizes. The trace that is exported for AOTInductor is a list of calls of torch's operators,
the backward pass included, so it is written down as text and compiled by ``ScriptModule.define``.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from nequip_core.errors import CompileError

__all__ = ["scripted_method"]

_INFIX = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.truediv: "/",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}
_SIZES = {"sym_size.int": "size", "sym_stride.int": "stride", "sym_numel.default": "numel"}


def scripted_method(
    trace: GraphModule, name: str, inputs: tuple[str, ...], constants: dict[str, torch.Tensor]
) -> str:
    """Return the source of a method that takes the inputs in order and returns a list of tensors.

    Args:
        trace: calls of torch's operators only.
        name: of the method.
        inputs: name of each argument.
        constants: filled with the tensors of the trace, name of the attribute -> tensor.

    Raises:
        CompileError: the trace holds something that TorchScript has no word for.
    """
    lines: list[str] = []
    names: dict[Node, str] = {}
    arguments = iter(inputs)
    for node in trace.graph.nodes:
        if node.op == "placeholder":
            names[node] = f"in_{next(arguments)}"
        elif node.op == "get_attr":
            names[node] = f"self.{_constant(trace, node, constants)}"
        elif node.target is torch.ops.aten.detach.default:
            # The arguments are detached already.
            names[node] = names[node.args[0]]
        elif node.op == "call_function":
            names[node] = f"v{len(names)}"
            lines.append(f"{names[node]} = {_call(node, names, inputs[0])}")
        elif node.op == "output":
            lines.append(f"return {_text(node.args[0], names, inputs[0])}")
        else:
            raise CompileError(f"the traced model calls '{node.target}', which is no operator")
    head = ", ".join(f"in_{name}: Tensor" for name in inputs)
    body = "\n".join(f"    {line}" for line in lines)
    return f"def {name}(self, {head}) -> List[Tensor]:\n{body}\n"


def _constant(trace: GraphModule, node: Node, constants: dict[str, torch.Tensor]) -> str:
    value: Any = trace
    for part in str(node.target).split("."):
        value = getattr(value, part)
    if not isinstance(value, torch.Tensor):
        raise CompileError(
            f"the traced model holds a {type(value).__name__} ('{node.target}'), TorchScript "
            "takes tensors only"
        )
    name = f"constant_{len(constants)}"
    for known, tensor in constants.items():
        if tensor is value:
            return known
    constants[name] = value
    return name


def _call(node: Node, names: dict[Node, str], first: str) -> str:
    target: Any = node.target
    if target is operator.getitem:
        return f"{_text(node.args[0], names, first)}[{_text(node.args[1], names, first)}]"
    if target in _INFIX:
        left, right = (_text(argument, names, first) for argument in node.args)
        return f"{left} {_INFIX[target]} {right}"
    if target is operator.neg:
        return f"-({_text(node.args[0], names, first)})"
    if not isinstance(target, torch._ops.OpOverload):
        raise CompileError(
            f"the traced model calls '{target}', which TorchScript cannot; use --mode aotinductor"
        )
    space, _, short = str(target).partition(".")
    words = [_text(argument, names, first) for argument in node.args]
    if space == "aten" and short in _SIZES:
        return f"{words[0]}.{_SIZES[short]}({', '.join(words[1:])})"
    words += [f"{key}={_text(value, names, first)}" for key, value in node.kwargs.items()]
    return f"torch.ops.{target.namespace}.{target._schema.name.partition('::')[2]}(" + (
        f"{', '.join(words)})"
    )


def _text(value: Any, names: dict[Node, str], first: str) -> str:
    """Return TorchScript source of an argument."""
    if isinstance(value, Node):
        return names[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(part, names, first) for part in value)}]"
    if isinstance(value, torch.device):
        # Wherever the inputs are: the file is not bound to the device it was made on.
        return f"in_{first}.device"
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
        return str(value)
    if isinstance(value, float) and value != value:
        return "float('nan')"
    if isinstance(value, float) and value in (float("inf"), -float("inf")):
        return f"float('{value}')"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    raise CompileError(
        f"the traced model passes a {type(value).__name__} to an operator, which TorchScript cannot"
    )
