"""The devices that tests run on."""

from __future__ import annotations

import torch

__all__ = ["get_accelerators", "get_test_devices"]


def get_accelerators() -> list[str]:
    """Return the types of accelerators that are present: ``["cuda"]`` or nothing."""
    return ["cuda"] if torch.cuda.is_available() else []


def get_test_devices(include_cpu: bool = True) -> list[str]:
    """Return ``"cpu"``, if asked for, and the accelerators that are present."""
    return (["cpu"] if include_cpu else []) + get_accelerators()
