"""What data and everything made from them follow from, as far as it can be told from content."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nequip_core.digests import file_digest, source_digest
from nequip_core.distributions import installed_versions
from nequip_core.documented_names import canonical_name
from nequip_core.instantiate import TARGET

__all__ = [
    "Stamp",
    "Uncacheable",
    "check_targets_known",
    "code_digests",
    "content_digest",
    "file_stamp",
    "library_versions",
    "plain",
    "without_paths",
]

# What makes frames and their statistics.
_CODE = ("nequip_core", "nequip_train.data")
# What comes from here is covered by the digests of the code.
_OWN = tuple(f"{name}." for name in _CODE)
_LOADER = "torch.utils.data.DataLoader"
_BACKENDS = (None, "ase", "matscipy", "torch", "vesin")
# They read files or compute neighbours, so their versions are part of the key.
_LIBRARIES = ("ase", "h5py", "matscipy", "numpy", "torch", "vesin")
_PATHS = ("file_name", "file_path")

Stamp = tuple[int, int]
"""Time of the last change, and size, of a file."""


class Uncacheable(Exception):  # noqa: N818 - no error: it says why something is not kept
    """Something follows from what cannot be told by content; the text says what."""


def check_targets_known(config: Any) -> None:
    """Check that a config names our own classes only.

    Raises:
        Uncacheable: it names others, or a neighbour-list backend from elsewhere.
    """
    for target in _targets(config):
        name = canonical_name(target)
        if not name.startswith(_OWN) and name != _LOADER:
            raise Uncacheable(f"what '{target}' does is not known here")


def _targets(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        if TARGET in config:
            yield str(config[TARGET])
        backend = config.get("backend")
        if backend not in _BACKENDS:
            raise Uncacheable(f"what the backend '{backend}' does is not known here")
    if isinstance(config, Mapping | list | tuple):
        for value in config.values() if isinstance(config, Mapping) else config:
            yield from _targets(value)


def plain(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return a key as JSON has it.

    Raises:
        Uncacheable: an object stands where plain values belong.
    """
    try:
        return json.loads(json.dumps(key))
    except TypeError as error:
        raise Uncacheable(f"a config holds more than plain values ({error})") from error


def without_paths(config: Any) -> Any:
    """Return a config without the names of files: their content counts."""
    if isinstance(config, Mapping):
        return {k: without_paths(v) for k, v in config.items() if k not in _PATHS}
    if isinstance(config, list | tuple):
        return [without_paths(value) for value in config]
    return config


def file_stamp(file: str) -> Stamp | None:
    """Return what changes when a file is written to; None if it is gone."""
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def content_digest(file: str) -> str:
    """Return the SHA-256 of a file; an unchanged one is read once in a process."""
    return _digest(file, file_stamp(file))


@functools.lru_cache(maxsize=1000)
def _digest(file: str, _stamp: Stamp | None) -> str:
    return file_digest(file)


@functools.cache
def code_digests() -> dict[str, str]:
    """Return digests of the source that makes frames and their statistics."""
    return {name: source_digest(name) for name in _CODE}


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that read files or find neighbours."""
    return installed_versions(_LIBRARIES)
