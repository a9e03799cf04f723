"""The part of a package that ``torch.package`` writes: pickled models and the code they need."""

from __future__ import annotations

import contextlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch.package import PackageExporter
from torch.package import PackagingError as TorchPackagingError

from nequip_core.archive.format import (
    EXTERN_MODULES_MEMBER,
    MODE_SUFFIX,
    MODEL_FOLDER,
)
from nequip_core.errors import PackagingError
from nequip_package.code_origin import CodeOrigin
from nequip_package.facade import bake
from nequip_package.import_chain import CodeWalk, broken_imports
from nequip_package.members import LARGEST_IN_MEMORY, Members, as_file
from nequip_package.stable_pickles import stable_pickles

__all__ = ["Members", "export_models", "mode_member"]


def mode_member(mode: str) -> str:
    """Return the name of the member that holds the models of a mode, below the top folder."""
    return f"{MODEL_FOLDER}/{mode}{MODE_SUFFIX}"


def export_models(
    modes: Mapping[str, torch.nn.ModuleDict], origin: CodeOrigin, scratch: Path, source: str
) -> tuple[Members, CodeWalk]:
    """Return the members that ``torch.package`` writes for models, and what their code imports.

    All modes are pickled by one exporter, so that they share classes and storages.

    Args:
        modes: mode -> models by name, on the CPU, in eval mode.
        origin: where the code of the models is from, and the rules for what it imports.
        scratch: an existing folder for temporary files, on which the result depends while used.
        source: what is being packaged, for messages.

    Raises:
        PackagingError: the models cannot be pickled, or an import of their code has no rule.
        OSError: a file cannot be written.
    """
    # In memory: torch's own writer ends the process where a disk is full.
    content = io.BytesIO()
    try:
        with warnings.catch_warnings():
            # torch.package itself uses the storage class that torch deprecates.
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
            with (
                _shared_tensors(list(modes.values())),
                stable_pickles(modes.values()),
                PackageExporter(content, importer=origin.importer) as exporter,
            ):
                origin.declare(exporter)
                walk = bake(exporter, _named(modes), origin.rules, origin.snapshot)
                for mode, models in modes.items():
                    exporter.save_pickle(MODEL_FOLDER, f"{mode}{MODE_SUFFIX}", models)
    except TorchPackagingError as error:
        raise PackagingError(broken_imports(error)) from error
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise PackagingError(f"the model of '{source}' cannot be pickled: {error}") from error
    members = _unpacked(content, scratch)
    # torch writes them in the order in which it meets them.
    externs = members[EXTERN_MODULES_MEMBER]
    if isinstance(externs, bytes):
        members[EXTERN_MODULES_MEMBER] = b"".join(
            line + b"\n" for line in sorted(set(externs.split()))
        )
    return members, walk


def _unpacked(container: io.BytesIO, scratch: Path) -> Members:
    """Return the members of torch's archive by name below its top folder, large ones as files."""
    members: Members = {}
    with zipfile.ZipFile(container) as archive:
        for number, entry in enumerate(archive.infolist()):
            name = entry.filename.partition("/")[2]
            if entry.file_size <= LARGEST_IN_MEMORY:
                members[name] = archive.read(entry)
            else:
                with archive.open(entry) as content:
                    members[name] = as_file(content, scratch / f"member{number}")
    return members


@contextlib.contextmanager
def _shared_tensors(modes: Sequence[torch.nn.ModuleDict]) -> Iterator[None]:
    """Let equal tensors of the modes share their storage inside, so that it is stored once."""
    first, *others = [_tensors(models) for models in modes]
    changed = []
    try:
        for tensors in others:
            for name, tensor in tensors.items():
                known = first.get(name)
                if known is None or known.stride() != tensor.stride():
                    continue
                if known.dtype == tensor.dtype and torch.equal(known, tensor):
                    changed.append((tensor, tensor.data))
                    tensor.data = known.data
        yield
    finally:
        for tensor, data in changed:
            tensor.data = data


def _tensors(models: torch.nn.ModuleDict) -> dict[str, torch.Tensor]:
    """Return parameters and buffers by name, without those of TorchScript: it stores its own."""
    return {
        f"{prefix}.{name}": tensor
        for prefix, module in models.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }


def _named(modes: Mapping[str, torch.nn.ModuleDict]) -> dict[str, torch.nn.Module]:
    return {
        f"{mode}/{name}": model for mode, models in modes.items() for name, model in models.items()
    }
