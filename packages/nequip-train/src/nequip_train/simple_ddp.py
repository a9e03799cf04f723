"""Training on several processes without a wrapper around the module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed

__all__ = ["SimpleDDPStrategy"]


class SimpleDDPStrategy(DDPStrategy):
    """Lightning's ``DDPStrategy`` with one reduction of all gradients after the backward pass.

    The module is not wrapped, so a compiled model sees no hooks in its backward pass. Arguments
    are those of ``DDPStrategy``; those of the wrapper have no effect.
    """

    _is_blocked = False

    def configure_ddp(self) -> None:
        """Give every process the weights and buffers of the first, as the wrapper would."""
        module = self.lightning_module
        for tensor in (*module.parameters(), *module.buffers()) if module is not None else ():
            distributed.broadcast(tensor.data, 0)

    @contextlib.contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Reduce nothing inside, while gradients accumulate."""
        self._is_blocked = True
        try:
            yield
        finally:
            self._is_blocked = False

    def post_backward(self, closure_loss: torch.Tensor) -> None:
        """Average the gradients over the processes."""
        if not self._is_blocked and self.lightning_module is not None:
            average_gradients(self.lightning_module)


@torch.no_grad()
def average_gradients(module: torch.nn.Module) -> None:
    """Replace gradients by their means over the processes, a missing one counting as zero.

    A parameter without a gradient in every process stays without one.
    """
    by_dtype: dict[torch.dtype, list[torch.nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for parameters in by_dtype.values():
        there = [float(parameter.grad is not None) for parameter in parameters]
        parts = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in parameters
        ]
        # The last entries count the processes that have a gradient of each parameter.
        flat = torch.cat([part.flatten() for part in [*parts, parts[0].new_tensor(there)]])
        distributed.all_reduce(flat)
        counts = flat[-len(parameters) :].tolist()
        start = 0
        for parameter, count in zip(parameters, counts, strict=True):
            stop = start + parameter.numel()
            if count > 0:
                mean = flat[start:stop].view_as(parameter) / distributed.get_world_size()
                parameter.grad = mean
            start = stop
