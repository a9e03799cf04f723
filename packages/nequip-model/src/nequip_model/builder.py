"""The protocol of model builders: what every builder takes, handled once.

A builder is a function that returns a module; `model_builder` gives it the arguments ``seed``,
``model_dtype`` and ``type_names`` and makes a `GraphModel` of what it returns. Construction is
pure: the same arguments give the same weights whatever the ambient default dtype or random state,
and both are afterwards what they were before.
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
from nequip_model.nn.graph_model import GraphModel

__all__ = ["MODEL_DTYPES", "current_dtype", "model_builder"]

MODEL_DTYPES = {"float32": torch.float32, "float64": torch.float64}

# Arguments that the decorator takes from every builder's caller, with their defaults.
_PROTOCOL: dict[str, Any] = {
    "seed": inspect.Parameter.empty,
    "model_dtype": inspect.Parameter.empty,
    "compile_mode": "eager",
}

_BUILDING: ContextVar[bool] = ContextVar("nequip_model_building", default=False)


def current_dtype() -> torch.dtype:
    """Return the dtype of the weights of the model being built: torch's default dtype, here."""
    return torch.get_default_dtype()


@contextlib.contextmanager
def _construction(seed: int, dtype: torch.dtype) -> Iterator[None]:
    """Draw from `seed` and make tensors of `dtype` inside; restore random state and dtype after."""
    before = torch.get_default_dtype()
    token = _BUILDING.set(True)
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
    """
    if function is None:
        return functools.partial(model_builder, extends=extends, replaces=replaces)
    own = _own_parameters(function, extends, replaces)

    @functools.wraps(function)
    def build(**arguments: Any) -> torch.nn.Module:
        if _BUILDING.get():
            return function(**arguments)
        missing = [key for key in ("seed", "model_dtype", "type_names") if key not in arguments]
        if missing:
            raise ConfigError(
                f"{function.__name__} lacks {missing}; mandatory model arguments are "
                "seed, model_dtype and type_names"
            )
        compile_mode = arguments.pop("compile_mode", "eager")
        if compile_mode != "eager":
            raise ConfigError(f"compile_mode must be 'eager', got {compile_mode!r}")
        seed, dtype = arguments.pop("seed"), arguments.pop("model_dtype")
        names = _checked_type_names(arguments["type_names"])
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigError(f"seed must be an integer, got {seed!r}")
        if dtype not in MODEL_DTYPES:
            raise ConfigError(f"model_dtype must be one of {list(MODEL_DTYPES)}, got {dtype!r}")
        arguments["type_names"] = names
        _check_names(function.__name__, own, arguments)
        with _construction(seed, MODEL_DTYPES[dtype]):
            module = function(**arguments)
        return _graph_model(module, names, dtype, arguments)

    protocol = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in _PROTOCOL.items()
        if name not in own
    ]
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        sorted([*protocol, *own.values()], key=lambda parameter: parameter.kind)
    )
    return build


def _own_parameters(
    function: Callable[..., Any], extends: Callable[..., Any] | None, replaces: Sequence[str]
) -> dict[str, inspect.Parameter]:
    """Return the parameters of `function`, with those it passes on in place of its ``**kwargs``."""
    parameters = dict(inspect.signature(function).parameters)
    if extends is None:
        return parameters
    passed_on = {
        name: parameter
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


def _graph_model(
    module: torch.nn.Module, names: list[str], dtype: str, arguments: Mapping[str, Any]
) -> GraphModel:
    if "r_max" not in arguments:
        raise ConfigError("a model needs its cutoff radius as the argument 'r_max'")
    r_max, partial = float(arguments["r_max"]), arguments.get("per_edge_type_cutoff")
    text = None
    if partial is not None:
        text = cutoff_table_to_text(cutoff_table(partial, names, r_max))
    return GraphModel(module, names, dtype, r_max, text)
