"""Models of checkpoints as starting points, and what a checkpoint's model config may name.

The config of a model comes from the file, so a checkpoint of somebody else could name anything that
is installed. Builders and module classes of this project and of registered extension packages are
built without asking; any other name takes the consent that running a package's code takes. Configs
that ``nequip-train`` has built models of on this machine are known by their digests.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch

from nequip_core.archive.embedded import (
    base_checkpoint,
    is_recording_contents,
    record_checkpoint,
    recording,
    using,
)
from nequip_core.archive.permitted import check_target, is_permitted_path
from nequip_core.archive.trust import TRUST_VARIABLE, consent, remember_built, trusting
from nequip_core.digests import file_digest
from nequip_core.documented_names import canonical_name
from nequip_core.errors import FileFormatError, TrustError
from nequip_core.instantiate import TARGET
from nequip_core.saved_model import requesting_mode
from nequip_model.compile_modes import override_model_compile_mode, require_compile_mode

__all__ = [
    "ModelFromCheckpoint",
    "config_from_file",
    "remember_config",
    "require_trusted_config",
    "without_consent",
]

_TRUST_KEY = "trust_code"
_OPEN: ContextVar[frozenset[str]] = ContextVar("nequip_open_checkpoints", default=frozenset())
# They build what they are given, and ask for consent themselves.
_LOADERS = frozenset(
    canonical_name(f"nequip.model.{name}")
    for name in ("ModelFromCheckpoint", "ModelFromPackage", "modify")
) | {"nequip_model.new_types.ModelWithNewTypes"}


def ModelFromCheckpoint(  # noqa: N802 - documented name, used like a class in configs
    checkpoint_path: str | os.PathLike[str],
    compile_mode: str = "eager",
    trust_code: bool | None = None,
) -> torch.nn.ModuleDict:
    """Return the models of a checkpoint by name, with their weights for prediction.

    They are in training mode as a new model is. For predictions use
    `nequip_core.saved_model.load_saved_model`, whose models are in eval mode. In a config, to go on
    training from it with another loss, other data, ...::

        model:
          _target_: nequip.model.ModelFromCheckpoint
          checkpoint_path: earlier/best.ckpt

    While a checkpoint is read that was trained from this one, its own copy of the config stands in
    for the file, and the weights are those of the seed: the reader replaces them.

    Args:
        checkpoint_path: a ``.ckpt`` file.
        compile_mode: ``eager`` or ``compile``, whatever the checkpoint's config says.
        trust_code: consent to run the code of a package that it was trained from, see
            `nequip_core.archive.loading.load_package`.

    Raises:
        ConfigError: there is no such compile mode, or its model cannot be built.
        MissingFileError: there is no such file.
        FileFormatError: it is not a checkpoint of ours, or its weights do not fit its model.
        TrustError: its model takes code that may not run.
    """
    from nequip_model.checkpoint import BASES_KEY, build_models, load_model_weights, read_checkpoint

    require_compile_mode(compile_mode)
    carried = base_checkpoint(checkpoint_path)
    state: Mapping[str, torch.Tensor] | None = None
    if carried is None:
        content = read_checkpoint(checkpoint_path)
        state = content["state_dict"]
        carried = {
            "model": content["hyper_parameters"]["model"],
            "bases": content.get(BASES_KEY) or {},
            "digest": file_digest(checkpoint_path),
        }
    with (
        _opening(carried["digest"], checkpoint_path),
        config_from_file(carried["model"], carried["bases"], checkpoint_path, trust_code),
        recording(keep_contents=is_recording_contents()) as own,
        requesting_mode(compile_mode),
        override_model_compile_mode(compile_mode),
    ):
        models = build_models(carried["model"])
    if state is not None:
        load_model_weights(models, state)
    record_checkpoint(checkpoint_path, carried["digest"], carried["model"], own)
    return models


@contextlib.contextmanager
def _opening(digest: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Refuse to open inside what is open already.

    Raises:
        FileFormatError: the checkpoint is its own ancestor.
    """
    if digest in _OPEN.get():
        raise FileFormatError(f"checkpoint '{path}' says that its training started from itself")
    token = _OPEN.set(_OPEN.get() | {digest})
    try:
        yield
    finally:
        _OPEN.reset(token)


@contextlib.contextmanager
def config_from_file(
    config: Mapping[str, Any],
    bases: Mapping[str, Any] | None,
    path: str | os.PathLike[str],
    trust_code: bool | None,
) -> Iterator[None]:
    """Let the model config of a checkpoint be built inside, with what the checkpoint carries.

    Raises:
        TrustError: the config names what may not be built without consent.
    """
    with trusting(trust_code):
        require_trusted_config(config, path)
        with using(bases):
            yield


def without_consent(config: Any) -> Any:
    """Return a config without its ``trust_code``: a file cannot consent to its own code."""
    if isinstance(config, Mapping):
        return {k: without_consent(value) for k, value in config.items() if k != _TRUST_KEY}
    if isinstance(config, list | tuple):
        return [without_consent(value) for value in config]
    return config


def require_trusted_config(config: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Check that a model config from a file may be built.

    Raises:
        TrustError: it names what is no builder or module class of this project or a registered
            extension package, and there is no consent.
    """
    foreign = _foreign_targets(config)
    if foreign and not consent(None, _identity(config)):
        raise TrustError(
            f"the model config of '{path}' names {', '.join(foreign)}: not model code of this "
            "project or of a registered extension package, and not built here by you before. If "
            "you trust the file's origin: --trust-code on the command line, trust_code=True, or "
            f"{TRUST_VARIABLE}=1 in the environment"
        )


def remember_config(config: Mapping[str, Any]) -> None:
    """Remember that a model of this config was built here, if reading it would take consent."""
    plain = without_consent(config)
    if _foreign_targets(plain):
        remember_built(_identity(plain))


def _identity(config: Mapping[str, Any]) -> str:
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(f"nequip model config: {text}".encode()).hexdigest()


def _foreign_targets(config: Any) -> list[str]:
    """Return the targets of a config that take consent, sorted."""
    found = set()
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
            if TARGET in value and not _is_ours(value[TARGET]):
                found.add(repr(value[TARGET]))
        elif isinstance(value, list | tuple):
            waiting += value
    return sorted(found)


def _is_ours(target: Any) -> bool:
    if isinstance(target, str) and canonical_name(target) in _LOADERS:
        return True
    if not is_permitted_path(target):
        return False
    try:
        check_target(target, TARGET)
    except FileFormatError:
        return False
    return True
