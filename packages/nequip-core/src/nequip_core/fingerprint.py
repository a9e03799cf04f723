"""What binds a model to a machine: its devices, and for compiled code torch and the processor.

Everything is compared from metadata, before native code is loaded: an instruction that a processor
does not have ends the process without a word.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nequip_core._version import __version__
from nequip_core.compiled_metadata import CORE_VERSION_KEY, TORCHSCRIPT_SUFFIX
from nequip_core.errors import ConfigError, FileFormatError
from nequip_core.origin import compile_command

if TYPE_CHECKING:
    import torch

__all__ = [
    "CPU_FEATURES_KEY",
    "TORCH_VERSION_KEY",
    "available_device",
    "misfit",
    "processor_features",
    "require_device",
    "require_fit",
]

TORCH_VERSION_KEY = "nequip_torch_version"
CPU_FEATURES_KEY = "nequip_cpu_features"

_KINDS = ("cpu", "cuda", "xpu", "mps")
# Instructions that no compiler puts into numerical code by itself.
_HARMLESS = ("aes", "clflush", "clflushopt", "clwb", "sha", "sse4a")


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

    wrong = _other_kind(metadata, str(device))
    if wrong:
        raise ConfigError(_message(path, wrong, metadata, str(device)))
    place = available_device(device)
    if place.type == "cpu":
        return torch.device("cpu")
    if place.type == "cuda" and place.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return place


def require_fit(metadata: dict[str, str], device: str | torch.device, path: Path) -> torch.device:
    """Return the device to run a compiled model on, if it runs on this machine at all.

    Args:
        metadata: of the file, which `compiled_metadata.require_compiled_metadata` has accepted.
        device: where it shall run.
        path: the file.

    Raises:
        ConfigError: the device is of another kind than the file's, or is not there.
        FileFormatError: the file is for another version of torch or a newer nequip-core, or for
            another platform, processor or GPU. The message has the command that makes it anew.
    """
    place = require_device(metadata, device, path)
    found = misfit(metadata, place, path)
    if found:
        raise FileFormatError(_message(path, found, metadata, str(device)))
    return place


def misfit(metadata: dict[str, str], device: str | torch.device, path: Path) -> str:
    """Return why a compiled model does not run on a device of this machine, empty if it does.

    Args:
        metadata: of the file.
        device: where it shall run; one that is there.
        path: the file. TorchScript is bound to no machine.
    """
    # The first of these is what makes the others so: a file from elsewhere.
    checks = [_newer_core(metadata), _other_kind(metadata, str(device))]
    if not path.name.endswith(TORCHSCRIPT_SUFFIX):
        checks += [_other_torch(metadata), _other_machine(metadata)]
        if metadata.get("AOTI_DEVICE_KEY", "cpu") == "cpu":
            checks.append(_missing_features(metadata))
        else:
            checks.append(_other_gpu(metadata, device))
    return next((text for text in checks if text), "")


def processor_features() -> list[str]:
    """Return the instruction sets of this processor that compiled code may use, sorted.

    Empty where torch does not tell: older versions do not.
    """
    return sorted(
        name for name, there in _offered().items() if there is True and name not in _HARMLESS
    )


def _offered() -> dict[str, object]:
    import torch

    return getattr(torch.cpu, "get_capabilities", dict)()


def _message(path: Path, wrong: str, metadata: dict[str, str], device: str) -> str:
    kind = device.partition(":")[0]
    command = compile_command(metadata, path, kind)
    return f"'{path}' {wrong}. Compile the model again here: {command}"


def _newer_core(metadata: dict[str, str]) -> str:
    recorded = metadata.get(CORE_VERSION_KEY, "")
    try:
        written, here = (tuple(int(n) for n in v.split(".")[:2]) for v in (recorded, __version__))
    except ValueError:
        return ""
    if written <= here:
        return ""
    return (
        f"was made with nequip-core {recorded}, this is {__version__}, which may not know all that "
        "the file says; a newer nequip-core reads it"
    )


def _other_kind(metadata: dict[str, str], device: str) -> str:
    kind = device.partition(":")[0]
    compiled_for = metadata.get("AOTI_DEVICE_KEY", kind)
    if kind == compiled_for or kind not in _KINDS:
        return ""
    return f"was compiled for {compiled_for}, asked for {kind}; use device='{compiled_for}'"


def _other_torch(metadata: dict[str, str]) -> str:
    import torch

    recorded = metadata.get(TORCH_VERSION_KEY)
    if not recorded or recorded.split(".")[:2] == torch.__version__.split(".")[:2]:
        return ""
    return f"was compiled with torch {recorded}, this is torch {torch.__version__}"


def _other_machine(metadata: dict[str, str]) -> str:
    for key, here in (("AOTI_PLATFORM", sys.platform), ("AOTI_MACHINE", platform.machine())):
        if metadata.get(key, "") not in ("", here):
            return f"was compiled for {metadata[key]}, this is {here}"
    return ""


def _missing_features(metadata: dict[str, str]) -> str:
    isa = metadata.get("AOTI_CPU_ISA", "").lower().split()
    needed = ["avx512_f" if name == "avx512" else name for name in isa]
    needed += metadata.get(CPU_FEATURES_KEY, "").split()
    # A name that torch does not know is not held against it; nor is anything where it tells none.
    offered = _offered()
    missing = sorted({name for name in needed if not offered.get(name, True)})
    if not missing:
        return ""
    return (
        f"was compiled for a processor with {' '.join(missing).upper()}, which this one does not "
        "have"
    )


def _other_gpu(metadata: dict[str, str], device: str | torch.device) -> str:
    import torch

    recorded, place = metadata.get("AOTI_COMPUTE_CAPABILITY", ""), torch.device(device)
    if place.type != "cuda" or not recorded:
        return ""
    if torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(place)
        here = str(10 * major + minor)
    else:
        here = torch.cuda.get_device_properties(place).gcnArchName.partition(":")[0]
    if here == recorded:
        return ""
    name = torch.cuda.get_device_name(place)
    return f"was compiled for GPUs of compute capability {recorded}, {name} has {here}"
