"""Training checkpoints: reading them, and rebuilding the model they hold.

A checkpoint is what Lightning writes during ``nequip-train``; it is read without Lightning, and
without unpickling anything but tensors and plain containers. Its parts:

- ``nequip_checkpoint_version``: integer, see `CHECKPOINT_VERSION`;
- ``hyper_parameters``: the arguments of the training module, ``model`` among them (a config with
  ``_target_``), and ``info_dict`` with the versions and the resolved config;
- ``state_dict``: ``model.<model name>.<tensor>``; with an exponential moving average also
  ``ema.ema_weight_<k>``, k counting ``model.parameters()``;
- ``nequip_bases``: of a training that started from a package or another checkpoint, what rebuilds
  the model without these files, see `nequip_core.archive.embedded`.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nequip_core.archive.embedded import check_bases, recording
from nequip_core.errors import ConfigError, FileFormatError
from nequip_core.files import require_file, require_suffix
from nequip_core.instantiate import instantiate
from nequip_core.modifiers import only_apply_persistent_modifiers
from nequip_core.saved_model import SOLE_MODEL, SavedModel, requested_mode, requesting_mode
from nequip_model.checkpoint_bases import config_from_file, without_consent
from nequip_model.compile_modes import COMPILE_MODE_EAGER, override_model_compile_mode

__all__ = [
    "BASES_KEY",
    "CHECKPOINT_VERSION",
    "VERSION_KEY",
    "build_models",
    "checkpoint_version",
    "load_checkpoint",
    "load_model_weights",
    "read_checkpoint",
    "require_stored",
]

CHECKPOINT_VERSION = 2
"""The newest version; a reader refuses newer ones and upgrades older ones.

| version | change |
|---|---|
| 1 | |
| 2 | holds what its training started from, `BASES_KEY` |
"""

VERSION_KEY = "nequip_checkpoint_version"

BASES_KEY = "nequip_bases"

# What torch.load raises for a file that is something else, is cut short, or would run code.
_DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    KeyError,
    OSError,  # of a file that is cut short
    zipfile.BadZipFile,
)

_MODEL_PREFIX = "model."
_EMA_PREFIX = "ema.ema_weight_"


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a checkpoint's content on CPU; nothing that its configs name is imported.

    The model config comes without ``trust_code``: consent is not the file's to give.

    Args:
        path: a ``.ckpt`` file.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: it is not a checkpoint of ours, or one of a newer version.
    """
    found = require_file(require_suffix(path, ".ckpt", "checkpoint"), "checkpoint")
    if not zipfile.is_zipfile(found):
        raise FileFormatError(
            f"'{found}' is not a checkpoint, or a damaged one: it is not a complete zip archive"
        )
    require_stored(found)
    try:
        content = torch.load(found, map_location="cpu", weights_only=True)
    except _DAMAGED as err:
        raise FileFormatError(
            f"'{found}' is not a checkpoint, or a damaged one: it does not load as tensors and "
            f"plain containers ({str(err).splitlines()[0] if str(err) else type(err).__name__})"
        ) from err
    if not isinstance(content, dict) or not {"state_dict", "hyper_parameters"} <= set(content):
        raise FileFormatError(
            f"'{found}' is not a training checkpoint: it has no 'state_dict' and 'hyper_parameters'"
        )
    version = content.get(VERSION_KEY)
    if version is None:
        raise FileFormatError(_foreign(found, content))
    if version > CHECKPOINT_VERSION:
        raise FileFormatError(
            f"'{found}' has checkpoint version {version}, this nequip-model reads up to "
            f"{CHECKPOINT_VERSION}; install a newer nequip-model"
        )
    if not isinstance(content["hyper_parameters"].get("model"), dict):
        raise FileFormatError(f"'{found}' holds no model config in 'hyper_parameters'")
    parameters = content["hyper_parameters"]
    content["hyper_parameters"] = {**parameters, "model": without_consent(parameters["model"])}
    for number in range(version, CHECKPOINT_VERSION):
        content = _UPGRADES[number](content)
    if BASES_KEY in content:
        check_bases(content[BASES_KEY], f"'{found}'")
        content[BASES_KEY] = without_consent(content[BASES_KEY])
    return content


def checkpoint_version(bases: Mapping[str, Any] | None) -> int:
    """Return the version to write: the oldest that says all, so that older readers keep reading.

    Args:
        bases: what the training started from, if from a file.
    """
    return 2 if bases else 1


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of version 1 as one of version 2, which may also hold bases."""
    return {**content, VERSION_KEY: 2}


# Version -> what makes the next version of it.
_UPGRADES = {1: _from_version_1}


def require_stored(path: Path) -> None:
    """Refuse an archive with compressed members: torch writes none; they could be of any size.

    Raises:
        FileFormatError: a member is compressed.
    """
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise FileFormatError(
                f"'{path}' is compressed, which torch never does: it was packed again by another "
                "program; unpack it, and pack it without compression (zip -0 -r)"
            )


def _foreign(path: Path, content: Mapping[str, Any]) -> str:
    """Return the message for a training checkpoint that is not ours."""
    parameters = content["hyper_parameters"]
    info = parameters.get("info_dict") if isinstance(parameters, Mapping) else None
    versions = info.get("versions") if isinstance(info, Mapping) else None
    writer = versions.get("nequip") if isinstance(versions, Mapping) else None
    if writer is not None:
        return (
            f"'{path}' was written by nequip {writer}, not by the nequip-train of this project: "
            "nequip-package convert makes a package of it"
        )
    return (
        f"'{path}' is not a checkpoint of nequip-train of this project: it lacks '{VERSION_KEY}'; "
        "if NequIP wrote it, nequip-package convert makes a package of it"
    )


def build_models(config: Mapping[str, Any]) -> torch.nn.ModuleDict:
    """Return the models of a config by name; a lone model is named ``sole_model``.

    Args:
        config: the ``model`` section: a mapping with ``_target_``.

    Raises:
        ConfigError: the target does not build a graph model, or models with different types.
    """
    built = instantiate(config)
    several = isinstance(built, torch.nn.ModuleDict)
    models: dict[str, Any] = dict(built.items()) if several else {SOLE_MODEL: built}
    for name, model in models.items():
        if not getattr(model, "is_graph_model", False):
            raise ConfigError(
                f"{config['_target_']} must build a graph model, got {type(model).__name__} "
                f"for '{name}'; decorate the builder with nequip.model.model_builder"
            )
    type_names = {name: list(model.type_names) for name, model in models.items()}
    if len({tuple(names) for names in type_names.values()}) != 1:
        raise ConfigError(f"models of one file must have the same type_names, got {type_names}")
    return torch.nn.ModuleDict(models)


def load_model_weights(models: torch.nn.ModuleDict, state: Mapping[str, torch.Tensor]) -> None:
    """Load the weights for prediction in place: the moving average where there is one.

    Args:
        models: as `build_models` returns them.
        state: ``state_dict`` of a checkpoint.

    Raises:
        FileFormatError: tensors are missing, left over or of another shape.
    """
    own = {
        key.removeprefix(_MODEL_PREFIX): value
        for key, value in state.items()
        if key.startswith(_MODEL_PREFIX)
    }
    try:
        models.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise FileFormatError(f"the checkpoint's weights do not fit its model: {error}") from error
    averages = {
        int(key.removeprefix(_EMA_PREFIX)): value
        for key, value in state.items()
        if key.startswith(_EMA_PREFIX)
    }
    if not averages:
        return
    parameters = list(models.parameters())
    if sorted(averages) != list(range(len(parameters))):
        raise FileFormatError(
            f"the checkpoint has {len(averages)} averaged weights, its model {len(parameters)}"
        )
    with torch.no_grad():
        for index, value in averages.items():
            parameters[index].copy_(value)


def load_checkpoint(
    path: str | os.PathLike[str], trust_code: bool | None = None, mode: str | None = None
) -> SavedModel:
    """Return the models of a checkpoint with their weights for prediction, in eval mode, on CPU.

    Args:
        path: a ``.ckpt`` file.
        trust_code: consent to run the code of a package that it was trained from, and to build
            what is not of this project or a registered extension package; see
            `nequip_core.archive.loading.load_package`.
        mode: in which mode to build models and to load those of packages, whatever their configs
            say; default ``eager``, or that of an enclosing `load_saved_model`.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: it is not a checkpoint of ours, or its weights do not fit its model.
        ConfigError: its model cannot be built by what is installed.
        TrustError: its model takes code that may not run.
    """
    content = read_checkpoint(path)
    hyper_parameters = content["hyper_parameters"]
    config = hyper_parameters["model"]
    wanted = requested_mode() or mode or COMPILE_MODE_EAGER
    # Accelerations are of the run that trained; who loads the model asks for its own.
    with (
        only_apply_persistent_modifiers(),
        requesting_mode(wanted),
        override_model_compile_mode(wanted),
        recording(keep_contents=False) as record,
        config_from_file(config, content.get(BASES_KEY), path, trust_code),
    ):
        models = build_models(config)
    load_model_weights(models, content["state_dict"])
    info = dict(hyper_parameters.get("info_dict") or {})
    versions = {key: str(value) for key, value in (info.pop("versions", None) or {}).items()}
    return SavedModel(
        models=models.eval(),
        config=info,
        versions=versions,
        source=require_file(path, "checkpoint"),
        parent=record.parents[0] if record.parents else None,
        training=_training(content),
    )


def _training(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far the training had come, and the range of what it was trained on."""
    found: dict[str, Any] = {}
    found |= {key: int(content[key]) for key in ("epoch", "global_step") if key in content}
    callbacks = content.get("callbacks") or {}
    for name, state in callbacks.items():
        # As the callback of nequip-train writes it, see nequip_core.training_range.
        if str(name).startswith("TrainingRange") and isinstance(state, Mapping):
            found |= {"range": state["range"]} if state.get("range") else {}
    for state in callbacks.values():
        score = state.get("best_model_score") if isinstance(state, Mapping) else None
        if score is not None and state.get("monitor"):
            return {**found, "monitor": str(state["monitor"]), "best_score": float(score)}
    return found
