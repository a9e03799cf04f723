"""Saved models of every kind, behind one function: ``.ckpt``, ``.nequip.zip``, and plugins'."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nequip_core.archive.trust import trusting
from nequip_core.errors import (
    ConfigError,
    FileFormatError,
    MissingDependencyError,
    NequIPError,
    closest,
)
from nequip_core.files import require_file
from nequip_core.plugins import MODEL_LOADERS, load_plugin, plugin_names
from nequip_core.repository.names import is_reference

if TYPE_CHECKING:
    import torch

__all__ = [
    "SOLE_MODEL",
    "Parent",
    "SavedModel",
    "is_reference",
    "load_one_model",
    "load_saved_model",
    "local_file",
    "requested_mode",
    "requesting_mode",
    "select_model",
]

SOLE_MODEL = "sole_model"
"""The name of the model where there is only one."""

_MODE: ContextVar[str | None] = ContextVar("nequip_requested_mode", default=None)

# Suffixes of loaders that live in other distributions of this project.
_PROVIDERS = {"ckpt": "nequip-model"}


@dataclass(frozen=True)
class Parent:
    """The file that a model came from, as the lineage of a package made of the model states it.

    Attributes:
        relation: ``repackaged`` for the models of a package themselves, ``fine-tuned`` for those of
            a checkpoint whose training started from the file.
        digest: identity of the package; of another file its SHA-256.
        format: format of the package; None if the file is none.
        steps: the file's own lineage, newest first.
        versions: distribution or library -> version of the code in the package.
        modes: modes that the package holds; none if the file is no package.
        details: further facts for the lineage.
    """

    relation: str
    digest: str
    format: int | None = None
    steps: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    modes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedModel:
    """What a saved file holds.

    Attributes:
        models: name -> graph model, in eval mode, on CPU, with the weights for prediction (the
            exponential moving average where the training kept one).
        config: the training config as plain containers, without versions.
        versions: distribution or library -> version with which the file was written.
        source: the file.
        parent: what the models came from: the package itself, or what a checkpoint was trained
            from; None for a training from scratch.
        training: of a checkpoint, or as the card of a package has it: ``epoch``, ``global_step``
            and, where a metric was monitored,
            ``monitor`` and ``best_score``; ``range``, see `nequip_core.training_range`.
        loaded_by: ``snapshot`` or ``rebuild`` for a package.
    """

    models: torch.nn.ModuleDict
    config: dict[str, Any]
    versions: dict[str, str]
    source: Path
    parent: Parent | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    loaded_by: Literal["snapshot", "rebuild"] | None = None


def local_file(source: str | os.PathLike[str]) -> Path:
    """Return the file of a saved model: a path as it is, a reference from the cache or downloaded.

    Args:
        source: a path, which need not exist, or ``nequip.net:<group>/<model>:<version>``.

    Raises:
        ConfigError: it begins like a reference and is none, or the environment is set wrongly.
        MissingFileError: no repository has a model of that name.
        DownloadError: it cannot be fetched, or what came is not what was promised.
        TrustError: what came is not what this name stood for before.
        MissingDependencyError: it has to be fetched, which takes ``nequip-core[repository]``.
    """
    if not is_reference(source):
        return Path(source)
    from nequip_core.repository.fetching import fetch_model

    return fetch_model(str(source))


def load_saved_model(
    path: str | os.PathLike[str], trust_code: bool | None = None, mode: str | None = None
) -> SavedModel:
    """Return the models of a saved file; its name's ending says which loader reads it.

    Args:
        path: a file whose name ends in ``.`` and an entry name of `nequip.model_loaders`, or the
            name of a model in a repository, see `local_file`.
        trust_code: consent to run code that the file carries, see
            `nequip_core.archive.loading.load_package`.
        mode: in which mode to load models, whatever their configs say; default ``eager``.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: no loader reads files of that ending, or the file is not what it claims.
        MissingDependencyError: the loader's distribution is not installed.
        PluginError: the loader does not import.
        TrustError: code in the file may not run, and it cannot be loaded without.
        NequIPError: a model named in a repository cannot be had, see `local_file`.
    """
    path = local_file(path)
    name = path.name
    known = plugin_names(MODEL_LOADERS)
    fitting = [suffix for suffix in {*known, *_PROVIDERS} if name.endswith(f".{suffix}")]
    if not fitting:
        endings = ", ".join(f".{suffix}" for suffix in sorted({*known, *_PROVIDERS}))
        raise FileFormatError(f"'{path}' is no saved model: its name must end in one of {endings}")
    suffix = max(fitting, key=len)
    found = require_file(path, "saved model")
    if suffix not in known:
        raise MissingDependencyError(
            f"reading '{path}' needs {_PROVIDERS[suffix]}, which is not installed: "
            f"install {_PROVIDERS[suffix]} beside nequip-core"
        )
    loader = load_plugin(MODEL_LOADERS, suffix)
    try:
        with trusting(trust_code), requesting_mode(mode):
            return loader(found)
    except NequIPError:
        raise
    except OSError as error:
        # torch reports some truncated files as errors of the operating system.
        raise FileFormatError(
            f"'{found}' is not a saved model, or a damaged one, or cannot be read: {error}"
        ) from error


def load_one_model(
    input_path: str | os.PathLike[str],
    compile_mode: str = "eager",
    model_key: str = SOLE_MODEL,
) -> torch.nn.Module:
    """Return one model of a saved file; the documented ``load_saved_model`` of NequIP.

    Args:
        input_path: a file or the name of a model in a repository, see `load_saved_model`.
        compile_mode: in which mode to load it.
        model_key: which model of the file.

    Raises:
        ConfigError: the file has no model of that name.
        NequIPError: see `load_saved_model`.
    """
    return select_model(load_saved_model(input_path, mode=compile_mode), model_key)


@contextlib.contextmanager
def requesting_mode(mode: str | None) -> Iterator[None]:
    """Load models from files inside in this mode; the outermost request counts, None is none."""
    token = None if mode is None or _MODE.get() is not None else _MODE.set(mode)
    try:
        yield
    finally:
        if token is not None:
            _MODE.reset(token)


def requested_mode() -> str | None:
    """Return the mode in which models are to be loaded whatever their configs say, or None."""
    return _MODE.get()


def select_model(saved: SavedModel, name: str = SOLE_MODEL) -> torch.nn.Module:
    """Return one model of a saved file.

    Raises:
        ConfigError: the file has no model of that name.
    """
    if name not in saved.models:
        names = list(saved.models)
        raise ConfigError(
            f"'{saved.source}' has no model '{name}', only {names}{closest(name, names)}"
        )
    return saved.models[name]
