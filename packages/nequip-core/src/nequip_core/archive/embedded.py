"""Files that a model was built from, carried inside the checkpoints trained from it.

The config of such a model only names its base: a package, or a checkpoint. What is recorded while
the model is built goes into every checkpoint, and is used when the checkpoint is read, so that the
base may have moved, changed or gone. The record is plain containers and tensors::

    packages:       identity -> bytes of the package, uint8
    package_paths:  path in the config -> identity
    checkpoints:    path in the config -> digest, model (its config), bases (its own record)

Of a base checkpoint no weights are kept: those of the checkpoint that carries it replace them all.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_core.archive.format import PACKAGE_SUFFIX
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import FileFormatError, NequIPError
from nequip_core.saved_model import Parent, local_file

if TYPE_CHECKING:
    import torch

__all__ = [
    "Recording",
    "base_checkpoint",
    "check_bases",
    "is_recording_contents",
    "open_base",
    "record_checkpoint",
    "recording",
    "using",
]


@dataclass
class Recording:
    """What was used while a model was built.

    Attributes:
        keep_contents: whether `bases` is filled.
        bases: the record for a checkpoint, see the module's text; empty if nothing was used.
        parents: what the model came from, in the order in which it was opened.
    """

    keep_contents: bool
    bases: dict[str, Any] = field(default_factory=dict)
    parents: list[Parent] = field(default_factory=list)


_PROVIDED: ContextVar[Mapping[str, Any] | None] = ContextVar("nequip_bases", default=None)
_RECORDING: ContextVar[Recording | None] = ContextVar("nequip_recording_bases", default=None)


@contextlib.contextmanager
def using(bases: Mapping[str, Any] | None) -> Iterator[None]:
    """Let files of this record stand in, inside, for those at the same paths."""
    token = _PROVIDED.set(bases)
    try:
        yield
    finally:
        _PROVIDED.reset(token)


@contextlib.contextmanager
def recording(keep_contents: bool = True) -> Iterator[Recording]:
    """Yield a recording that is filled while models are built inside.

    Args:
        keep_contents: also read the files, for a checkpoint to carry.
    """
    record = Recording(keep_contents)
    token = _RECORDING.set(record)
    try:
        yield record
    finally:
        _RECORDING.reset(token)


@contextlib.contextmanager
def open_base(path: str | os.PathLike[str]) -> Iterator[PackageReader]:
    """Yield a package: the one that is carried under this path, else the file.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: it is no package, or what is carried is not what its key says.
    """
    provided = _PROVIDED.get() or {}
    identity = (provided.get("package_paths") or {}).get(str(path))
    if identity is None:
        package = PackageReader(local_file(path))
        _record_package(package, str(path), None)
        yield package
        return
    content = provided["packages"][identity]
    with tempfile.TemporaryDirectory(prefix="nequip-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / f"base{PACKAGE_SUFFIX}"
        copy.write_bytes(memoryview(content.numpy()))
        try:
            package = PackageReader(copy)
            if package.identity != identity:
                raise FileFormatError(
                    f"'{copy}' has the identity {package.identity}, expected {identity}"
                )
            _record_package(package, str(path), content)
            yield package
        except NequIPError as error:
            text = str(error).replace(str(copy), str(path))
            raise type(error)(f"of the package carried by the checkpoint: {text}") from error


def base_checkpoint(path: str | os.PathLike[str]) -> Mapping[str, Any] | None:
    """Return ``digest``, ``model`` and ``bases`` of the checkpoint carried under this path."""
    return ((_PROVIDED.get() or {}).get("checkpoints") or {}).get(str(path))


def record_checkpoint(
    path: str | os.PathLike[str], digest: str, model: Mapping[str, Any], own: Recording
) -> None:
    """Record a base checkpoint.

    Args:
        path: as in the config.
        digest: SHA-256 of the file, hexadecimal.
        model: its model config.
        own: what was recorded while its model was built.
    """
    record = _RECORDING.get()
    if record is None:
        return
    earlier = own.parents[0] if own.parents else None
    steps = () if earlier is None else (_step_of(earlier), *earlier.steps)
    versions = {} if earlier is None else earlier.versions
    record.parents.append(Parent("fine-tuned", digest, None, steps, versions))
    if record.keep_contents:
        entry = {"digest": digest, "model": dict(model), "bases": own.bases}
        record.bases.setdefault("checkpoints", {})[str(path)] = entry


def _step_of(parent: Parent) -> dict[str, Any]:
    """Return the step of a lineage that leads to a parent, as ``lineage.json`` has it."""
    from nequip_core import __version__

    return {
        "relation": parent.relation,
        "digest": parent.digest,
        "format": parent.format,
        "packager": f"nequip-core {__version__}",
        "details": dict(parent.details),
    }


def is_recording_contents() -> bool:
    """Return whether files are being read for a checkpoint to carry."""
    record = _RECORDING.get()
    return record is not None and record.keep_contents


def check_bases(bases: Any, where: str) -> None:
    """Check that what a checkpoint carries has the form of a record.

    Raises:
        FileFormatError: it has another form.
    """
    import torch

    def fail(what: str) -> None:
        raise FileFormatError(f"{where}: what it carries of its bases is damaged: {what}")

    if not isinstance(bases, Mapping):
        fail("it is no mapping")
    packages, paths = bases.get("packages") or {}, bases.get("package_paths") or {}
    checkpoints = bases.get("checkpoints") or {}
    if not all(isinstance(part, Mapping) for part in (packages, paths, checkpoints)):
        fail("a part of it is no mapping")
    for identity, content in packages.items():
        is_bytes = isinstance(content, torch.Tensor) and content.dtype == torch.uint8
        if not is_bytes or content.dim() != 1:
            fail(f"package {identity} is not bytes")
    for path, identity in paths.items():
        if identity not in packages:
            fail(f"package '{path}' is missing")
    for path, entry in checkpoints.items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("model"), Mapping):
            fail(f"checkpoint '{path}' has no model config")
        check_bases(entry.get("bases") or {}, where)


def _record_package(package: PackageReader, path: str, content: torch.Tensor | None) -> None:
    record = _RECORDING.get()
    if record is None:
        return
    from nequip_core.archive.loading import package_parent

    record.parents.append(package_parent(package, "fine-tuned"))
    if not record.keep_contents:
        return
    if content is None:
        import torch

        content = torch.frombuffer(bytearray(package.path.read_bytes()), dtype=torch.uint8)
    record.bases.setdefault("packages", {})[package.identity] = content
    record.bases.setdefault("package_paths", {})[path] = package.identity
