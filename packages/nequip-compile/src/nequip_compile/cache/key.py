"""Everything that a compiled file follows from, as plain containers: the key of the cache.

What is left out changes neither numbers nor what the file runs on: the compiler, whose work is
compared with the eager model, and the folder of the saved model.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_compile.cxx import compiler_identity
from nequip_compile.operators import COMPILED_OPERATORS
from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_core.archive.trust import consent, is_refused
from nequip_core.digests import file_digest, source_digest
from nequip_core.distributions import installed_versions
from nequip_core.files import require_file
from nequip_core.plugins import ARCHITECTURES, COMPILE_TARGETS, EXTENSIONS, MODEL_LOADERS, REBUILD

if TYPE_CHECKING:
    from nequip_compile.compilation import Compilation
    from nequip_core.compile_targets import CompileTarget

# The latter moved to nequip_compile.cxx after 0.2.0.
__all__ = ["cache_key", "compiler_identity"]

# Their code makes or prepares models, whatever the file.
_ALWAYS = (COMPILED_OPERATORS, COMPILE_TARGETS, EXTENSIONS)
# Their code is the model's where the file does not bring its own.
_INSTALLED = (ARCHITECTURES, MODEL_LOADERS, REBUILD)
_OWN = ("nequip_core", "nequip_compile")
_LIBRARIES = ("cuequivariance-torch", "e3nn", "openequivariance", "torch", "triton")
# What compilation and comparison obey.
_VARIABLES = (
    "NEQUIP_FLOAT32_MODEL_TOL",
    "NEQUIP_FLOAT64_MODEL_TOL",
    "NEQUIP_SKIP_AOTI_MODEL_CHECK",
    "NEQUIP_TF32_MODEL_TOL",
)
_INDUCTOR_VARIABLES = ("TORCHINDUCTOR_", "AOT_INDUCTOR_", "TORCH_COMPILE_")
_NOT_OF_CODE = ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS")
# Fields of a compilation that have entries of their own.
_OTHERWISE = ("path", "device", "data_path", "trust_code")


def cache_key(compilation: Compilation, target: CompileTarget | None) -> dict[str, Any]:
    """Return the key of one compiled file.

    Raises:
        NequIPError: the device or a file is not there, or the package is damaged.
    """
    way = _way(compilation)
    asked = {
        field.name: _plain(getattr(compilation, field.name))
        for field in dataclasses.fields(compilation)
        if field.name not in _OTHERWISE
    }
    key = {
        **asked,
        "loaded": way,
        "refers_to": _referred_files(compilation.path),
        "example": _example(compilation.data_path),
        "target": None if target is None else _target(target),
        "machine": _machine(compilation.device),
        "code": _code(_ALWAYS if way == "snapshot" else (*_ALWAYS, *_INSTALLED)),
        "libraries": installed_versions(_LIBRARIES),
        "environment": _environment(),
    }
    return json.loads(json.dumps(key, sort_keys=True))


def _way(compilation: Compilation) -> str:
    """Return how the file is loaded: what decides on it, without loading it."""
    if compilation.path.name.endswith(PACKAGE_SUFFIX):
        from nequip_core.archive.reader import PackageReader

        identity = PackageReader(compilation.path).identity
        return "snapshot" if consent(compilation.trust_code, identity) else "rebuild"
    if is_refused(compilation.trust_code):
        return "installed code, consent refused"
    return f"installed code, consent {'given' if consent(compilation.trust_code, '') else 'open'}"


def _example(path: Path | None) -> str | None:
    return None if path is None else file_digest(require_file(path, "data file"))


def _referred_files(path: Path) -> dict[str, str]:
    """Return path -> SHA-256 of the files that a checkpoint's model config names, and so on."""
    found: dict[str, str] = {}
    waiting = [path] if path.name.endswith(".ckpt") else []
    while waiting:
        for text in _texts(_model_config(waiting.pop())):
            named = Path(text)
            if text not in found and _is_file(named):
                found[text] = file_digest(named)
                waiting += [named] if named.name.endswith(".ckpt") else []
    return found


def _model_config(path: Path) -> Any:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return content["hyper_parameters"]["model"]
    except Exception:
        return None  # no checkpoint, or a damaged one: loading it says so


def _texts(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, Mapping | list | tuple):
        for value in config.values() if isinstance(config, Mapping) else config:
            yield from _texts(value)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that cannot be a path
        return False


def _target(target: CompileTarget) -> dict[str, Any]:
    return {
        "name": target.name,
        "inputs": list(target.inputs),
        "outputs": list(target.outputs),
        "dynamic_frames": target.dynamic_frames,
    }


def _machine(device: str) -> dict[str, Any]:
    """Return the kind of machine and device that native code is made for."""
    import torch

    from nequip_core.fingerprint import available_device, processor_features

    place = available_device(device)
    found: dict[str, Any] = {
        "device": place.type,
        "platform": sys.platform,
        "machine": platform.machine(),
        "processor": processor_features(),
    }
    if place.type == "cuda":
        found["gpu"] = list(torch.cuda.get_device_capability(place))
        found["cuda"] = str(torch.version.cuda or torch.version.hip)
    return found


def _code(groups: tuple[str, ...]) -> dict[str, str]:
    """Return top-level module -> digest of its source: of ours, and of what offers entries."""
    names = {*_OWN}
    for group in groups:
        for entry in importlib.metadata.entry_points(group=group):
            names.add(entry.module.partition(".")[0])
    return {name: source_digest(name) for name in sorted(names)}


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name in _VARIABLES or (name.startswith(_INDUCTOR_VARIABLES) and name not in _NOT_OF_CODE)
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
