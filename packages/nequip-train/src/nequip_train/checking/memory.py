"""The memory that tensors take while something is computed, on any device.

Every operation is watched, and the storages it makes are counted from then until they are freed.
What kernels take for themselves while they run, what an allocator keeps in reserve, and the
libraries of a device are not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["MemoryMeter", "shown_bytes", "tensor_bytes"]


class MemoryMeter(TorchDispatchMode):
    """Counts the bytes of tensors made inside of a ``with`` block.

    Attributes:
        current: bytes alive of those made since the block began.
        peak: the most that were alive at the same time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Do an operation, and count what it made."""
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage(), given)
        return result

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = storage._cdata
        if key in self._alive or key in given:
            return
        size = storage.nbytes()
        self._alive[key] = size
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.current -= self._alive.pop(key, 0)


def tensor_bytes(*tensors: Any) -> int:
    """Return the bytes of tensors, in containers or not; anything else counts nothing."""
    storages = {
        leaf.untyped_storage()._cdata: leaf.untyped_storage().nbytes()
        for leaf in tree_leaves(tensors)
        if isinstance(leaf, torch.Tensor)
    }
    return sum(storages.values())


def shown_bytes(count: float) -> str:
    """Return a number of bytes in the unit that fits: ``12.3 MB`` (10^6 bytes)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return ""
