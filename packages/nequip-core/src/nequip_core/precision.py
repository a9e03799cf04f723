"""The precision of matrix products on GPUs, set for a call and not for the process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["matrix_precision"]


@contextlib.contextmanager
def matrix_precision(allow_tf32: bool, device: torch.device) -> Iterator[None]:
    """Multiply matrices on a GPU as the file says, and leave torch's setting as it was."""
    if device.type != "cuda":
        yield
        return
    import torch

    settings = torch.backends.cuda.matmul
    # Torch before 2.9 knows `allow_tf32` alone; later ones refuse to tell it once somebody has set
    # the precision by its new name.
    on: str | bool
    off: str | bool
    if hasattr(settings, "fp32_precision"):
        name, on, off = "fp32_precision", "tf32", "ieee"
    else:
        name, on, off = "allow_tf32", True, False
    before = getattr(settings, name)
    if (before == on) == allow_tf32:
        yield
        return
    setattr(settings, name, on if allow_tf32 else off)
    try:
        yield
    finally:
        setattr(settings, name, before)
