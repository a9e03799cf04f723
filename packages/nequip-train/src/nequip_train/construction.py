"""Objects from plain configs, nested ones included, with the config's key path in every error.

A mapping with ``_target_`` becomes the call of what the target names, its other entries being
keyword arguments. Understood are also Hydra's ``_args_`` (positional arguments), ``_partial_``
(a `functools.partial` in place of the call) and ``_recursive_: false`` (entries are passed on as
they are). ``_convert_`` changes nothing: everything is plain containers already.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nequip_core.errors import ConfigError, NequIPError, closest
from nequip_core.instantiate import TARGET, import_object

__all__ = ["accepted_arguments", "argument_mistake", "build", "call", "resolve_target"]

SPECIAL_KEYS = frozenset({TARGET, "_args_", "_convert_", "_partial_", "_recursive_"})
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def resolve_target(config: Mapping[str, Any], where: str) -> Callable[..., Any]:
    """Return what the config's ``_target_`` names.

    Raises:
        ConfigError: the target names nothing, or nothing that can be called.
    """
    if not isinstance(config, Mapping) or TARGET not in config:
        raise ConfigError(f"{where}: expected a mapping with {TARGET}, got {config!r}")
    try:
        found = import_object(config[TARGET])
    except ConfigError as error:
        raise ConfigError(f"{where}.{TARGET}: {error}") from error
    if not callable(found):
        raise ConfigError(f"{where}.{TARGET}: '{config[TARGET]}' is not a class or function")
    return found


def accepted_arguments(target: Callable[..., Any]) -> tuple[list[str], list[str], bool]:
    """Return the keyword arguments that a class or function takes.

    Returns:
        the names it takes, those of them it needs, and whether it takes further ones (``**kwargs``)
        that cannot be known. A class that hands ``**kwargs`` to its base takes the base's names.
    """
    bases: list[Any] = []
    if inspect.isclass(target):
        bases = [base for base in target.__mro__[1:] if "__init__" in vars(base)]
    owners = [target, *(base for base in bases if base is not object)]
    try:
        signatures = [inspect.signature(owner) for owner in owners]
    except (TypeError, ValueError):
        # Classes of compiled code, or derived from one, may not tell.
        return [], [], True
    names: list[str] = []
    required: list[str] = []
    for owner, signature in zip(owners, signatures, strict=True):
        parameters = signature.parameters.values()
        # A foreign class may itself give its base what that needs, as TensorBoardLogger does.
        may_need = owner is target or owner.__module__.startswith("nequip")
        for parameter in parameters:
            if parameter.kind in _NAMED and parameter.name not in names:
                names.append(parameter.name)
                if parameter.default is inspect.Parameter.empty and may_need:
                    required.append(parameter.name)
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            return names, required, False
    return names, required, True


def argument_mistake(
    target: Callable[..., Any],
    given: Iterable[str],
    where: str,
    positional: int = 0,
    check_missing: bool = True,
) -> str | None:
    """Return what is wrong with the names of keyword arguments, or None.

    Args:
        target: class or function to be called.
        given: the names of the keyword arguments.
        where: key path of the config, for the message.
        positional: number of positional arguments that come as well.
        check_missing: whether to look for missing arguments, too.
    """
    names, required, is_open = accepted_arguments(target)
    given = list(given)
    label = getattr(target, "__name__", str(target))
    for name in given:
        if name not in names and not is_open:
            near = closest(str(name), names) or f" (it takes {', '.join(names)})"
            return f"{where}.{name}: {label} has no argument '{name}'{near}"
    lacking = [name for name in required if name not in given and name not in names[:positional]]
    if lacking and check_missing:
        alike = [name for name in given if is_open and closest(name, lacking)]
        hint = f" (is '{alike[0]}' a misspelling of it?)" if alike else ""
        return f"{where}: {label} needs the argument '{lacking[0]}'{hint}"
    return None


def call(target: Callable[..., Any], arguments: Mapping[str, Any], where: str, *args: Any) -> Any:
    """Call `target` and turn a refusal of its arguments into a ConfigError with the key path.

    Raises:
        ConfigError: the arguments do not fit.
        NequIPError: whatever the target raises of this kind, with the key path in front.
    """
    mistake = argument_mistake(target, arguments, where, positional=len(args))
    if mistake:
        raise ConfigError(mistake)
    try:
        return target(*args, **arguments)
    except NequIPError as error:
        if str(error).startswith("training_module") or str(error).startswith(where):
            raise
        raise type(error)(f"{where}: {error}") from error
    except Exception as error:
        # What a constructor raises when it does not like its arguments; Lightning's own class is
        # recognised by name, so that this module does not import Lightning.
        kinds = (TypeError, ValueError, KeyError, ImportError)
        if not isinstance(error, kinds) and type(error).__name__ != "MisconfigurationException":
            raise
        label = getattr(target, "__name__", str(target))
        unexpected = _UNEXPECTED.search(str(error))
        if unexpected and unexpected[1] in arguments:
            name, names = unexpected[1], accepted_arguments(target)[0]
            raise ConfigError(
                f"{where}.{name}: {label} has no argument '{name}'{closest(name, names)}"
            ) from error
        raise ConfigError(
            f"{where}: {label} refused its arguments ({type(error).__name__}: {error})"
        ) from error


def build(config: Any, where: str, /, **injected: Any) -> Any:
    """Return the object that a config describes; nested configs are built first.

    Args:
        config: plain containers. Without ``_target_`` the containers themselves are returned, with
            what is nested in them built.
        where: key path of the config, for messages.
        **injected: keyword arguments that join or replace those of the outermost config.

    Raises:
        ConfigError: a target does not exist, or its arguments do not fit.
    """
    if isinstance(config, list | tuple):
        return [build(item, f"{where}[{index}]") for index, item in enumerate(config)]
    if not isinstance(config, Mapping):
        return config
    recursive = TARGET not in config or config.get("_recursive_", True)
    values = {
        key: build(value, f"{where}.{key}") if recursive else value
        for key, value in config.items()
        if key not in SPECIAL_KEYS
    }
    if TARGET not in config:
        return values
    target = resolve_target(config, where)
    arguments = {**values, **injected}
    positional = build(config.get("_args_", []), f"{where}._args_")
    if config.get("_partial_", False):
        return functools.partial(target, *positional, **arguments)
    return call(target, arguments, where, *positional)
