"""A graph model whose steps of training are compiled; everything else runs as it is written."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Hashable, Mapping
from typing import Any

import torch

from nequip_model.compile_step import CompiledStep, Sizes, dynamic_axis, frame_sizes
from nequip_model.nn.graph_model import GraphModel

__all__ = ["CompileGraphModel"]

_LOG = logging.getLogger(__name__)

# Signatures with compiled code at a time; who has more has shapes that never come again.
_LIMIT = 8

# Largest difference from the eager model, relative to the largest entry: of outputs, of gradients.
_TOLERANCES = {"float64": (1e-12, 1e-10), "float32": (5e-5, 1e-3)}


class CompileGraphModel(GraphModel):
    """`GraphModel` that compiles the step of training; same weights, names and outputs.

    In training mode the model with its forces, and the gradient of both with respect to the
    weights, are traced and compiled at the first call, which takes from half a minute to several;
    later calls take any number of atoms, edges and frames. Before compiled code is used, its
    outputs and gradients are compared with those of the eager model.

    The model runs eagerly in eval mode (`nequip-compile` is for that), for fewer than two atoms or
    edges, and wherever compiling fails or compiled results differ. A log message names each reason
    once, except for eval mode.

    A copy, or a pickle, holds no compiled code.
    """

    is_compile_graph_model = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Compiled steps by signature; none where compiling failed.
        self._steps: dict[Hashable, list[CompiledStep]] = {}
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without compiled code, which belongs to the process."""
        return {**self.__dict__, "_steps": {}, "_said": set()}

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the inputs and everything computed from them.

        Raises:
            KeyError: a required field is missing.
        """
        if not self.training:
            return super().forward(data)
        fields = {key: data[key] for key in self.model_input_fields if key in data}
        reason = self._reason_for_eager(fields)
        if reason is not None:
            self._say(f"a step of training runs eagerly: {reason}")
            return super().forward(data)
        step = self._step(fields, frame_sizes(fields))
        if step is None:
            return super().forward(data)
        weights, buffers = dict(self.named_parameters()), dict(self.named_buffers())
        return {**fields, **step(weights, buffers, fields)}

    def _reason_for_eager(self, fields: Mapping[str, Any]) -> str | None:
        """Return why a call cannot be compiled, or None."""
        if not hasattr(torch._inductor, "standalone_compile"):
            return f"compiling needs torch 2.8 or newer, this is {torch.__version__}"
        if not torch.is_grad_enabled():
            return "gradients are switched off"
        missing = [key for key in ("pos", "atom_types", "edge_index") if key not in fields]
        if missing:
            return f"the data has no field {missing}"
        for key, value in fields.items():
            if not isinstance(value, torch.Tensor):
                return f"the field '{key}' is not a tensor"
            if value.requires_grad:
                return f"the field '{key}' requires a gradient"
        sizes = frame_sizes(fields)
        for kind, name in (("node", "atoms"), ("edge", "edges")):
            if sizes[kind] < 2:
                return f"there are fewer than two {name}"
        return None

    def _signature(self, fields: dict[str, torch.Tensor], sizes: Sizes) -> Hashable:
        """Return what compiled code depends on, apart from the sizes it takes as they come."""
        shapes = []
        for key, value in fields.items():
            found = dynamic_axis(key, value, sizes)
            shape = list(value.shape)
            if found is not None:
                shape[found[0]] = -1
            shapes.append((key, value.dtype, value.device, tuple(shape)))
        # Modules that a modifier exchanged, and switches that it or .train() set in them.
        modules = tuple(
            (id(module), *(value for value in vars(module).values() if isinstance(value, bool)))
            for module in self.modules()
        )
        trainable = tuple(parameter.requires_grad for parameter in self.parameters())
        return tuple(shapes), modules, trainable

    def _step(self, fields: dict[str, torch.Tensor], sizes: Sizes) -> CompiledStep | None:
        """Return the compiled step for these fields, compiled now if need be; None if it failed."""
        signature = self._signature(fields, sizes)
        steps = self._steps.get(signature)
        if steps is not None:
            fitting = next((step for step in steps if step.fits(sizes)), None)
            if fitting is not None or not steps:
                return fitting
        if sum(max(1, len(compiled)) for compiled in self._steps.values()) >= _LIMIT:
            self._say(
                f"a step of training runs eagerly: {_LIMIT} kinds of data are compiled already"
            )
            return None
        compiled = self._compiled(fields)
        found = self._steps.setdefault(signature, [])
        if compiled is None:
            found.clear()
        else:
            found.append(compiled)
        return compiled

    def _compiled(self, fields: dict[str, torch.Tensor]) -> CompiledStep | None:
        _LOG.info("compiling the step of training; this takes a while once")
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's, about itself
                step = CompiledStep(
                    self._eager_call,
                    dict(self.named_parameters()),
                    dict(self.named_buffers()),
                    fields,
                )
            difference = self._difference(step, fields)
        except Exception as error:
            text = str(error).strip().splitlines() or ["no message"]
            difference = f"it cannot be compiled ({type(error).__name__}: {text[0]})"
        if difference is not None:
            self._say(f"steps of training run eagerly: {difference}")
            return None
        seconds = time.perf_counter() - start
        _LOG.info("compiled the step of training in %.0f s; it agrees with the eager one", seconds)
        return step

    def _eager_call(
        self,
        weights: dict[str, torch.Tensor],
        buffers: dict[str, torch.Tensor],
        data: dict[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Return the eager model's fields with these weights and buffers in place of its own."""
        held = _Held(self)
        state = {f"model.{name}": value for name, value in {**weights, **buffers}.items()}
        return torch.func.functional_call(held, state, (data,))

    def _difference(self, step: CompiledStep, fields: dict[str, torch.Tensor]) -> str | None:
        """Return in which output or gradient compiled code differs too much, or None."""
        weights, buffers = dict(self.named_parameters()), dict(self.named_buffers())
        for_outputs, for_gradients = _TOLERANCES[self.model_dtype]
        expected = super().forward(dict(fields))
        found = step(weights, buffers, fields)
        for key, value in found.items():
            error = _relative_error(value, expected[key])
            if not error <= for_outputs:
                return f"compiled '{key}' differs from the eager one by {error:.1e} of its largest"
        trained = {name: weight for name, weight in weights.items() if weight.requires_grad}
        for name, wanted, gradient in zip(
            trained,
            _gradients(expected, found, trained),
            _gradients(found, found, trained),
            strict=True,
        ):
            error = _relative_error(gradient, wanted)
            if not error <= for_gradients:
                return f"the compiled gradient of '{name}' differs by {error:.1e} of its largest"
        return None

    def _say(self, message: str) -> None:
        """Log a warning the first time."""
        if message not in self._said:
            self._said.add(message)
            _LOG.warning("compile_mode 'compile': %s", message)


class _Held(torch.nn.Module):
    """The eager call of a `CompileGraphModel`, as a module whose child ``model`` it is."""

    def __init__(self, model: CompileGraphModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return GraphModel.forward(self.model, data)  # type: ignore[arg-type]


def _gradients(
    outputs: dict[str, torch.Tensor],
    of: dict[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
) -> list[torch.Tensor]:
    """Return the gradients of a fixed sum over the fields `of`, zeros where there is none."""
    fields = [outputs[key] for key in of if of[key].requires_grad]
    scales = [
        torch.linspace(0.5, 1.5, max(field.numel(), 1), dtype=field.dtype, device=field.device)
        [: field.numel()].reshape(field.shape)
        for field in fields
    ]  # fmt: skip
    found = torch.autograd.grad(
        fields, list(weights.values()), scales, allow_unused=True, materialize_grads=True
    )
    return list(found)


def _relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference over the largest entry of `expected`, at least one."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(found, expected) else float("inf")
    if expected.numel() == 0:
        return 0.0
    scale = max(1.0, float(expected.detach().abs().max()))
    return float((found.detach() - expected.detach()).abs().max()) / scale
