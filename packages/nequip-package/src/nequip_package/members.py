"""Putting the members of a package together, and writing it as one file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from nequip_core.archive.container import write_archive
from nequip_core.archive.format import (
    EXTERN_MODULES_MEMBER,
    MANIFEST_MEMBER,
)
from nequip_core.archive.manifest import hash_bytes, identity_of, manifest_bytes
from nequip_core.archive.reader import PackageReader
from nequip_core.digests import hash_file
from nequip_core.errors import PackagingError
from nequip_package.absolute_paths import holds_absolute_path
from nequip_package.json_text import json_bytes
from nequip_package.tensors import write_tensors

__all__ = [
    "LARGEST_IN_MEMORY",
    "Members",
    "architecture_bytes",
    "as_file",
    "copy_members",
    "extern_modules",
    "weights_file",
    "write_members",
]

Members = dict[str, bytes | Path]

Advance = Callable[[int, int], None]

LARGEST_IN_MEMORY = 2**20
"""Bytes; larger members are kept as files while a package is made."""
_CHUNK = 2**20


def architecture_bytes(models: Mapping[str, Any]) -> bytes:
    """Return ``model/architecture.json``: the description of each model, or null.

    Args:
        models: name -> model.
    """
    descriptions = {name: _description(model) for name, model in models.items()}
    return json_bytes({"models": descriptions}, "the description of a model")


def _description(model: Any) -> dict[str, Any] | None:
    description = getattr(model, "description", None)
    if not isinstance(description, dict) or holds_absolute_path(description):
        return None
    try:
        json.dumps(description, allow_nan=False)
    except (TypeError, ValueError):
        return None
    return description


def weights_file(models: torch.nn.ModuleDict, path: Path) -> Path:
    """Write every parameter and persistent buffer to ``weights.safetensors`` at `path`.

    Raises:
        PackagingError: a model keeps state that is no tensor, or a tensor of an unusual dtype.
        OSError: the file cannot be written.
    """
    state = models.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise PackagingError(
            f"the state '{odd[0]}' of the model is {type(state[odd[0]]).__name__}, a package "
            "stores tensors: keep other state in arguments of the model's builder"
        )
    write_tensors(path, state)
    return path


def extern_modules(members: Mapping[str, bytes | Path]) -> list[str]:
    """Return the dotted names of the outside modules that packaged code names."""
    content = members[EXTERN_MODULES_MEMBER]
    return (content if isinstance(content, bytes) else content.read_bytes()).decode().split()


def copy_members(package: PackageReader, scratch: Path) -> Members:
    """Return the members of a package, verified, by name below the top folder.

    Args:
        package: the package.
        scratch: folder for large members, on which the result depends while it is used.
    """
    members: Members = {}
    for number, (size, full_name) in enumerate(package.members()):
        name = full_name.removeprefix(f"{package.root}/")
        if size <= LARGEST_IN_MEMORY:
            members[name] = package.read_bytes(name)
        else:
            with package.open_member(name) as content:
                members[name] = as_file(content, scratch / f"copied{number}")
    return members


def as_file(content: IO[bytes], file: Path) -> Path:
    """Write what an open file holds to `file`, piece by piece, and return that."""
    with file.open("wb") as copy:
        shutil.copyfileobj(content, copy, _CHUNK)
    return file


def write_members(
    path: Path, members: Mapping[str, bytes | Path], advance: Advance = lambda done, total: None
) -> str:
    """Write a package and return its identity.

    Args:
        path: the file; must not exist.
        members: all members but the manifest, by name below the top folder.
        advance: called with the bytes hashed and the bytes in all.

    Raises:
        FileFormatError: a name is not allowed.
        OSError: the file cannot be written.
    """
    total = sum(
        len(content) if isinstance(content, bytes) else content.stat().st_size
        for content in members.values()
    )
    hashes: dict[str, tuple[str, int]] = {}
    done = 0
    for name, content in members.items():
        hashes[name] = hash_bytes(content) if isinstance(content, bytes) else hash_file(content)
        done += hashes[name][1]
        advance(done, total)
    manifest = manifest_bytes(hashes)
    write_archive(path, {**members, MANIFEST_MEMBER: manifest})
    return identity_of(manifest)
