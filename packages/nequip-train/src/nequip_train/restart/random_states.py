"""The states of the process's random number generators, as a checkpoint can hold them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

__all__ = ["RandomStates", "random_states", "set_random_states", "to_plain"]

RandomStates = tuple[Any, Any, torch.Tensor, torch.Tensor | None]
"""States of Python, NumPy, torch, and torch on the current CUDA device."""


def random_states() -> RandomStates:
    """Return the states of now; fast enough to be called at every step."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def to_plain(states: RandomStates) -> dict[str, Any]:
    """Return states as tensors and plain containers, which load without unpickling code."""
    (version, words, next_gauss), numpy_state, torch_state, cuda_state = states
    name, keys, position, has_gauss, cached = numpy_state
    return {
        "python": [version, torch.tensor(words, dtype=torch.int64), next_gauss],
        "numpy": [
            str(name),
            torch.from_numpy(keys.astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch_state,
        "cuda": cuda_state,
    }


def set_random_states(plain: dict[str, Any]) -> None:
    """Continue from what `to_plain` returned."""
    version, words, next_gauss = plain["python"]
    random.setstate((version, tuple(words.tolist()), next_gauss))
    name, keys, position, has_gauss, cached = plain["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(plain["torch"].cpu())
    if plain["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(plain["cuda"].cpu())
