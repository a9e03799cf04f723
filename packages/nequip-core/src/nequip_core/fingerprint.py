"""What binds a model to a machine: its devices, and for compiled code torch and the processor."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

from nequip_core.errors import ConfigError, FileFormatError

if TYPE_CHECKING:
    import torch

__all__ = [
    "TORCH_VERSION_KEY",
    "available_device",
    "require_device",
    "require_processor",
    "require_torch",
]

TORCH_VERSION_KEY = "nequip_torch_version"


def available_device(device: str | torch.device) -> torch.device:
    """Return the device that a user named.

    Raises:
        ConfigError: there is no such device here, or the name means none.
    """
    import torch

    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"'{device}' is not a device: {str(error).splitlines()[0]}") from error
    try:
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"there is no device '{place}' here that torch {torch.__version__} can use"
        ) from error
    return place


def require_device(
    metadata: dict[str, str], device: str | torch.device, path: Path
) -> torch.device:
    """Return the device to run a compiled model on, with the index of a GPU.

    ``cuda`` is the current GPU: it and ``cuda:0`` are of the same kind.

    Raises:
        ConfigError: the device is of another kind than the file's, or is not there.
    """
    import torch

    kind = str(device).partition(":")[0]
    compiled_for = metadata.get("AOTI_DEVICE_KEY", kind)
    if kind != compiled_for and kind in ("cpu", "cuda", "xpu", "mps"):
        raise ConfigError(
            f"'{path}' was compiled for {compiled_for}, asked for {kind}; use "
            f"device='{compiled_for}' or compile with --device {kind}"
        )
    place = available_device(device)
    if place.type == "cpu":
        return torch.device("cpu")
    if place.type == "cuda" and place.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return place


def require_torch(metadata: dict[str, str], path: Path) -> None:
    """Check that this torch is the one that compiled the file, in its first two numbers.

    Raises:
        FileFormatError: it is not.
    """
    import torch

    recorded = metadata.get(TORCH_VERSION_KEY)
    if recorded and recorded.split(".")[:2] != torch.__version__.split(".")[:2]:
        raise FileFormatError(
            f"'{path}' was compiled with torch {recorded}, this is torch {torch.__version__}; "
            "compile the model again here"
        )


def require_processor(metadata: dict[str, str], path: Path) -> None:
    """Refuse what would end the process with an illegal instruction.

    Raises:
        FileFormatError: the file is for another processor.
    """
    import torch

    machine = metadata.get("AOTI_MACHINE", "") or platform.machine()
    if machine != platform.machine():
        raise FileFormatError(
            f"'{path}' was compiled for {machine}, this is {platform.machine()}; compile it here"
        )
    if metadata.get("AOTI_DEVICE_KEY") != "cpu":
        return
    # Older torch does not tell; a name it does not know is not held against it either.
    offered: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    for name in metadata.get("AOTI_CPU_ISA", "").lower().split():
        if not offered.get("avx512_f" if name == "avx512" else name, True):
            raise FileFormatError(
                f"'{path}' was compiled for a processor with {name.upper()}, which this one does "
                "not have; compile the model again here"
            )
