"""The protocol of model builders: what every builder takes, handled once.

A builder is a function that returns a module; `model_builder` gives it the arguments ``seed``,
``model_dtype`` and ``type_names`` and makes a `GraphModel` of what it returns, with a description
of its construction (`nequip_model.architecture`). Construction is pure: the same arguments give
the same weights whatever the ambient default dtype or random state, and both are afterwards what
they were before.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch

from nequip_core.cutoffs import cutoff_table, cutoff_table_to_text
from nequip_core.errors import ConfigError, closest
from nequip_model.compile_modes import COMPILE_MODE_COMPILE, building_in_mode
from nequip_model.nn.graph_model import (
    MODEL_DTYPE_KEY,
    PER_EDGE_TYPE_CUTOFF_KEY,
    R_MAX_KEY,
    TYPE_NAMES_KEY,
    GraphModel,
)

__all__ = ["MODEL_DTYPES", "current_dtype", "fresh_model_builder_context", "model_builder"]

MODEL_DTYPES = {"float32": torch.float32, "float64": torch.float64}

# Arguments that the decorator takes from every builder's caller, with their defaults.
_PROTOCOL: dict[str, Any] = {
    "seed": inspect.Parameter.empty,
    "model_dtype": inspect.Parameter.empty,
    "compile_mode": "eager",
}


class _Chosen:
    """The default of an argument whose value follows from another argument, a preset say."""

    def __repr__(self) -> str:
        return "chosen"


# The shared arguments of the model being built; None outside of a builder.
_BUILDING: ContextVar[dict[str, Any] | None] = ContextVar("nequip_model_building", default=None)
_INHERITED: ContextVar[Mapping[str, Any]] = ContextVar("nequip_model_inherited", default={})  # noqa: B039 - never written to


def current_dtype() -> torch.dtype:
    """Return the dtype of the weights of the model being built: torch's default dtype, here."""
    return torch.get_default_dtype()


@contextlib.contextmanager
def fresh_model_builder_context() -> Iterator[None]:
    """Make a builder called inside of another one build a whole model, a `GraphModel`.

    ``seed``, ``model_dtype`` and ``type_names`` are those of the model around it unless given.
    """
    inherited, building = _INHERITED.set(_BUILDING.get() or {}), _BUILDING.set(None)
    try:
        yield
    finally:
        _BUILDING.reset(building)
        _INHERITED.reset(inherited)


@contextlib.contextmanager
def _construction(shared: dict[str, Any]) -> Iterator[None]:
    """Draw from the seed and make tensors of the dtype inside; restore random state and dtype."""
    before = torch.get_default_dtype()
    seed, dtype = shared["seed"], MODEL_DTYPES[shared["model_dtype"]]
    token = _BUILDING.set(shared)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            torch.set_default_dtype(dtype)
            yield
    finally:
        torch.set_default_dtype(before)
        _BUILDING.reset(token)


def model_builder(
    function: Callable[..., torch.nn.Module] | None = None,
    *,
    extends: Callable[..., Any] | None = None,
    replaces: Sequence[str] = (),
    chooses: Sequence[str] = (),
    architecture_version: int | None = None,
    wrapper_class: type[GraphModel] = GraphModel,
    compile_wrapper_class: type[GraphModel] | None = None,
) -> Callable[..., Any]:
    """Make a model builder of a function that returns a module.

    The outermost builder takes ``seed``, ``model_dtype``, ``type_names`` and ``r_max`` besides the
    function's own arguments and returns a `GraphModel`. A builder called inside another returns
    the bare module.

    Args:
        function: builds the module under torch's default dtype and random state; is given
            ``type_names`` and every other keyword argument.
        extends: the builder that gets the function's ``**kwargs``.
        replaces: arguments of that builder which the function makes itself.
        chooses: arguments of that builder whose defaults the function has of its own.
        architecture_version: of a builder that an entry of the group ``nequip.architectures``
            names, by the function's own name; raised when the same arguments no longer make the
            same model.
        wrapper_class: what makes the outermost module, `GraphModel` or a subclass of it.
        compile_wrapper_class: what makes it where ``compile_mode`` is ``compile``; default
            `CompileGraphModel`, and none if `wrapper_class` is a subclass.
    """
    if function is None:
        return functools.partial(
            model_builder,
            extends=extends,
            replaces=replaces,
            chooses=chooses,
            architecture_version=architecture_version,
            wrapper_class=wrapper_class,
            compile_wrapper_class=compile_wrapper_class,
        )
    own = _own_parameters(function, extends, replaces, chooses)

    @functools.wraps(function)
    def build(**arguments: Any) -> torch.nn.Module:
        if _BUILDING.get() is not None:
            return function(**arguments)
        arguments = {**_INHERITED.get(), **arguments}
        missing = [key for key in ("seed", "model_dtype", "type_names") if key not in arguments]
        if missing:
            raise ConfigError(
                f"{function.__name__} lacks {missing}; mandatory model arguments are "
                "seed, model_dtype and type_names"
            )
        compile_mode = arguments.pop("compile_mode", "eager")
        seed, dtype = arguments.pop("seed"), arguments.pop("model_dtype")
        names = _checked_type_names(arguments["type_names"])
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigError(f"seed must be an integer, got {seed!r}")
        if dtype not in MODEL_DTYPES:
            raise ConfigError(f"model_dtype must be one of {list(MODEL_DTYPES)}, got {dtype!r}")
        arguments["type_names"] = names
        _check_names(function.__name__, own, arguments)
        shared = {"seed": seed, "model_dtype": dtype, "type_names": names}
        with building_in_mode(compile_mode) as mode:
            outermost = _outermost(mode, wrapper_class, compile_wrapper_class)
            with _construction(shared):
                module = function(**arguments)
        model = outermost(module, _model_config(dtype, arguments))
        model.description = _description(build, {**arguments, "seed": seed, "model_dtype": dtype})
        return model

    build.architecture_version = architecture_version  # type: ignore[attr-defined]
    build.architecture_name = (  # type: ignore[attr-defined]
        f"{function.__module__}.{function.__qualname__}"
        if architecture_version is None
        else function.__name__
    )
    protocol = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in _PROTOCOL.items()
        if name not in own
    ]
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        sorted([*protocol, *own.values()], key=lambda parameter: parameter.kind)
    )
    return build


def _outermost(
    mode: str, eager: type[GraphModel], compiling: type[GraphModel] | None
) -> type[GraphModel]:
    """Return the class of the outermost module.

    Raises:
        ConfigError: the mode is ``compile``, and the builder has only a class of its own for eager.
    """
    if mode != COMPILE_MODE_COMPILE:
        return eager
    if compiling is not None:
        return compiling
    if eager is not GraphModel:
        raise ConfigError(
            f"compile_mode must be 'eager' for models of {eager.__name__}: their builder names no "
            "compile_wrapper_class"
        )
    from nequip_model.compile_graph_model import CompileGraphModel

    return CompileGraphModel


def _own_parameters(
    function: Callable[..., Any],
    extends: Callable[..., Any] | None,
    replaces: Sequence[str],
    chooses: Sequence[str],
) -> dict[str, inspect.Parameter]:
    """Return the parameters of `function`, with those it passes on in place of its ``**kwargs``."""
    parameters = dict(inspect.signature(function).parameters)
    if extends is None:
        return parameters
    passed_on = {
        name: parameter.replace(default=_Chosen()) if name in chooses else parameter
        for name, parameter in inspect.signature(extends).parameters.items()
        if name not in (*replaces, *_PROTOCOL)
    }
    named = {n: p for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    return {**named, **{n: p for n, p in passed_on.items() if n not in named}}


def _checked_type_names(names: Any) -> list[str]:
    if isinstance(names, str) or not names:
        raise ConfigError(f"type_names must be a list with at least one name, got {names!r}")
    listed = [str(name) for name in names]
    for name in listed:
        if not name or name.split() != [name]:
            raise ConfigError(f"type name {name!r} must be a word without white space")
    repeated = sorted({name for name in listed if listed.count(name) > 1})
    if repeated:
        raise ConfigError(f"type_names must be unique, found {repeated} more than once in {listed}")
    return listed


def _check_names(
    builder: str, parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any]
) -> None:
    """Raise a `ConfigError` if `arguments` are not those of the builder."""
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in arguments:
            if name not in parameters:
                raise ConfigError(
                    f"{builder} has no argument '{name}'{closest(name, list(parameters))}"
                )
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            raise ConfigError(f"{builder} needs the argument '{name}'")


def _model_config(dtype: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `GraphModel` states of itself."""
    if "r_max" not in arguments:
        raise ConfigError("a model needs its cutoff radius as the argument 'r_max'")
    names, r_max = arguments["type_names"], float(arguments["r_max"])
    config = {TYPE_NAMES_KEY: names, MODEL_DTYPE_KEY: dtype, R_MAX_KEY: r_max}
    if arguments.get(PER_EDGE_TYPE_CUTOFF_KEY) is not None:
        table = cutoff_table(arguments[PER_EDGE_TYPE_CUTOFF_KEY], names, r_max)
        config[PER_EDGE_TYPE_CUTOFF_KEY] = cutoff_table_to_text(table)
    return config


def _description(build: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the description of a model, or None if an argument is not plain data."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(build).parameters.items()
        if parameter.default is not parameter.empty and not isinstance(parameter.default, _Chosen)
    }
    try:
        plain = _plain({**defaults, **arguments})
    except TypeError:
        return None
    return {
        "architecture": build.architecture_name,  # type: ignore[attr-defined]
        "version": build.architecture_version,  # type: ignore[attr-defined]
        "arguments": plain,
        "modifiers": [],
    }


def _plain(value: Any) -> Any:
    """Return `value` as JSON knows it.

    Raises:
        TypeError: it is an object and not data.
    """
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence):
        return [_plain(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} is not plain data")
