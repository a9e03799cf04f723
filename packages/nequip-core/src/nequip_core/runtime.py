"""Any model, opened for prediction in the best way there is on this machine.

| source | way |
|---|---|
| compiled file that fits this machine | used as it is |
| compiled file of elsewhere, its saved model at hand | as that saved model |
| package or checkpoint, on disk or by reference | compiled here and kept, by an entry of the group ``nequip.compilers`` |
| the same, where compiling is off, not installed or fails | as it is, without compilation |

What the user has to correct (a path, consent, a device, a modifier) is always an error. That a model
runs without compilation although nobody asked for it is one warning of the logger of this module,
which says why; Python prints it to standard error where logging is not set up.
"""  # noqa: E501

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nequip_core.compile_request import CompiledFile, CompileRequest
from nequip_core.compiled import compiled_fields, load_compiled_model
from nequip_core.compiled_metadata import (
    COMPILED_SUFFIXES,
    TARGET_KEY,
    read_compiled_metadata,
    require_compiled_metadata,
)
from nequip_core.errors import (
    CompileError,
    ConfigError,
    NequIPError,
    PluginError,
)
from nequip_core.fields import BATCH_KEY, NUM_NODES_KEY
from nequip_core.files import require_file
from nequip_core.fingerprint import available_device, misfit
from nequip_core.opened import OpenedModel, open_eagerly, opened_compiled
from nequip_core.origin import Origin, compile_command
from nequip_core.plugins import COMPILERS, load_plugin, plugin_names
from nequip_core.saved_model import SOLE_MODEL, is_reference, local_file
from nequip_core.user_settings import says_off

if TYPE_CHECKING:
    import torch

    from nequip_core.compile_targets import CompileTarget

__all__ = ["COMPILE_VARIABLE", "OpenedModel", "open_model"]

COMPILE_VARIABLE = "NEQUIP_COMPILE"
"""Environment variable; ``off`` (or ``0``, ``no``, ``false``) opens models without compiling."""

_LOG = logging.getLogger(__name__)


def open_model(
    source: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    target: CompileTarget,
    outputs: Sequence[str] | None = None,
    model_name: str = SOLE_MODEL,
    modifiers: Sequence[str] = (),
    tf32: bool = False,
    trust_code: bool | None = None,
    compile: bool = True,  # noqa: A002
    require_compiled: bool = False,
) -> OpenedModel:
    """Return a model of any kind, opened in the best way there is here.

    Args:
        source: a compiled model, package or checkpoint, or the reference of a model.
        device: where to run; ``cuda`` is the current GPU.
        target: fields that the engine gives and takes.
        outputs: fields that a compiled file must return; default all of the target.
        model_name: which model of the file.
        modifiers: names of modifiers to apply, in order.
        tf32: multiply matrices in TF32 on GPUs, for models in single precision.
        trust_code: consent to run code of the file, see `nequip_core.archive.loading.load_package`.
        compile: whether models may be compiled here. What is compiled already is used as it is.
        require_compiled: whether a model that is not compiled is an error.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: the file is not what its name says, or is a compiled model that does not
            run here, without its saved model at hand.
        ConfigError: the device is not there, a modifier or model is unknown, or a compiled file
            is for another engine or was made with other settings than asked for.
        TrustError: code in the file may not run, and it cannot be loaded without.
        MissingDependencyError: a distribution is missing that reads such files.
        DownloadError: a reference cannot be fetched.
        CompileError: `require_compiled`, and the model is not compiled.
    """
    if require_compiled and not compile:
        raise ConfigError("require_compiled=True needs compile=True")
    place = available_device(device)
    path = local_file(source)
    request = CompileRequest(
        path,
        target,
        str(place),
        model_name,
        tuple(modifiers),
        tf32,
        trust_code,
        retry=require_compiled,
        name=_reference(source),
    )
    if path.name.endswith(COMPILED_SUFFIXES):
        needed = target.outputs if outputs is None else outputs
        return _open_compiled(request, needed, compile, require_compiled)
    require_file(path, "saved model")
    return _open_saved(request, source, compile, require_compiled)


def _open_saved(
    request: CompileRequest, source: Any, may_compile: bool, required: bool
) -> OpenedModel:
    reason = _why_not(may_compile)
    if reason is None:
        try:
            return _open_compiled_here(request, source)
        except CompileError as error:
            reason = _first_line(error)
    if required:
        raise CompileError(
            f"'{source}' is to run compiled, and cannot: {reason}; require_compiled=False runs it "
            "without compilation, which gives the same numbers"
        )
    way = f"'{source}' runs without compilation: {reason}"
    opened = open_eagerly(request, way)
    asked_for = not may_compile or _switched_off()
    _LOG.log(logging.INFO if asked_for else logging.WARNING, "%s", way)
    return opened


def _reference(source: Any) -> str:
    return str(source) if is_reference(source) else ""


def _why_not(may_compile: bool) -> str | None:
    """Return why nothing can be compiled here, None if it can."""
    if not may_compile:
        return "compile=False"
    if _switched_off():
        return f"the environment says {COMPILE_VARIABLE}={os.environ[COMPILE_VARIABLE]}"
    if not plugin_names(COMPILERS):
        return "nequip-compile is not installed; install it and a C++ compiler for more speed"
    return None


def _switched_off() -> bool:
    return says_off(os.environ.get(COMPILE_VARIABLE, ""))


def _open_compiled_here(request: CompileRequest, source: Any) -> OpenedModel:
    """Return the model, compiled here now or earlier.

    Raises:
        CompileError: it cannot be compiled; whatever stops a compiler must not stop a simulation.
        NequIPError: something that the user has to correct.
    """
    try:
        compiler = load_plugin(COMPILERS, plugin_names(COMPILERS)[0])
    except PluginError as error:
        raise CompileError(_first_line(error)) from error
    try:
        answer: CompiledFile = compiler(request)
    except NequIPError:
        raise
    except Exception as error:
        raise CompileError(
            f"compiling failed ({type(error).__name__}: {_first_line(error)})"
        ) from error
    try:
        model = load_compiled_model(answer.path, request.device)
    except NequIPError as error:
        # The file is not one that the user named.
        raise CompileError(_first_line(error)) from error
    when = "was compiled earlier on this machine" if answer.earlier else "was compiled here"
    way = f"'{source}' {when}, for target {request.target.name}: {answer.path}"
    _LOG.info("%s", way)
    return opened_compiled(model, way)


def _open_compiled(
    request: CompileRequest, outputs: Sequence[str], may_compile: bool, required: bool
) -> OpenedModel:
    """Return a compiled model, or where it is of elsewhere the model that it was made from."""
    path = request.source
    metadata = read_compiled_metadata(path)
    require_compiled_metadata(metadata, path)
    origin = Origin.of(metadata)
    _require_settings(request, origin, metadata)
    wrong = misfit(metadata, request.device, path)
    found = origin.find(path) if wrong else None
    if found is None:
        if not wrong:
            _require_fields(metadata, request, outputs)
        # Where something is wrong this is the error that says so.
        model = load_compiled_model(path, request.device)
        way = f"compiled file '{path}', which fits this machine"
        _LOG.info("%s", way)
        return opened_compiled(model, way)
    wanted = replace(
        request,
        source=found,
        name=_reference(origin.source),
        model_name=origin.model_name,
        modifiers=origin.modifiers,
        tf32=origin.tf32 and request.device.startswith("cuda"),
    )
    opened = _open_saved(wanted, found, may_compile, required)
    way = f"compiled file '{path}' {wrong}; its saved model is at hand: {opened.way}"
    _LOG.info("%s", way)
    return replace(opened, way=way)


def _require_settings(request: CompileRequest, origin: Origin, metadata: dict[str, str]) -> None:
    """Check that a compiled file was made with what is asked for; what is not said is taken as is.

    Raises:
        ConfigError: it was not.
    """
    asked = {
        "model_name": (request.model_name, origin.model_name, SOLE_MODEL),
        "modifiers": (request.modifiers, origin.modifiers, ()),
        "tf32": (request.tf32, origin.tf32, False),
    }
    for name, (wanted, recorded, default) in asked.items():
        if wanted not in (default, recorded):
            again = compile_command(metadata, request.source, request.device.partition(":")[0])
            raise ConfigError(
                f"'{request.source}' was compiled with {name} {recorded!r}, asked for {wanted!r}: "
                f"leave {name} out, open the saved model, or change the command that made the "
                f"file: {again}"
            )


def _require_fields(
    metadata: dict[str, str], request: CompileRequest, outputs: Sequence[str]
) -> None:
    """Check that a compiled model takes what the engine has and returns what it needs.

    Raises:
        ConfigError: it does not.
    """
    target, path = request.target, request.source
    takes, returns = compiled_fields(metadata, path)
    given = (*target.inputs, BATCH_KEY, NUM_NODES_KEY)
    if all(name in returns for name in outputs) and all(name in given for name in takes):
        return
    command = compile_command(
        {**metadata, TARGET_KEY: target.name}, path, request.device.partition(":")[0]
    )
    raise ConfigError(
        f"'{path}' takes {list(takes)} and returns {list(returns)}; what runs it gives "
        f"{list(target.inputs)} and needs {list(outputs)}: compile with --target {target.name}: "
        f"{command}"
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip(" :;,") for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
