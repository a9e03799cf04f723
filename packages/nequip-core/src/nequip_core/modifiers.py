"""Model modifiers: which a model has, and applying them, packaged models included.

A modifier is a classmethod ``(cls, model, **arguments) -> model`` of a module class, marked by
`nequip_model.nn.modifier.model_modifier`. It is found by its marks on the classes of the modules
that a model is made of, so nothing here knows a model class.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nequip_core.errors import ConfigError, MissingDependencyError, NequIPError, closest

if TYPE_CHECKING:
    import torch

__all__ = [
    "ModelModifier",
    "apply_modifiers",
    "get_all_modifiers",
    "only_apply_persistent_modifiers",
]

_MARK = "_nequip_model_modifier_"
_NAME_KEY = "modifier"
_ONLY_PERSISTENT: ContextVar[bool] = ContextVar("nequip_only_persistent_modifiers", default=False)


@dataclass(frozen=True)
class ModelModifier:
    """A modifier of a model; calling it with the model and keyword arguments applies it.

    Attributes:
        name: as in a config.
        method: the bound classmethod.
        is_persistent: the change stays with a saved model; otherwise it is an acceleration.
        is_private: not offered to users.
        unsupported_devices: device types on which the modified model cannot run.
        supported_compile_modes: compile modes the modified model works in; None means all.
        arguments: keyword argument -> default; `inspect.Parameter.empty` where there is none.
        summary: first line of its documentation.
    """

    name: str
    method: Callable[..., torch.nn.Module]
    is_persistent: bool
    is_private: bool
    unsupported_devices: tuple[str, ...]
    supported_compile_modes: tuple[str, ...] | None
    arguments: dict[str, Any]
    summary: str

    def __call__(self, model: torch.nn.Module, **arguments: Any) -> torch.nn.Module:
        """Return the modified model, which may be `model` itself, changed.

        Raises:
            ConfigError: an argument is unknown, missing or out of range.
            MissingDependencyError: a library that the modifier uses is not installed.
        """
        signature = ", ".join(
            name if default is inspect.Parameter.empty else f"{name}={default!r}"
            for name, default in self.arguments.items()
        )
        unknown = [name for name in arguments if name not in self.arguments]
        if unknown:
            raise ConfigError(
                f"{self.name}({signature}) has no argument '{unknown[0]}'"
                f"{closest(str(unknown[0]), list(self.arguments))}"
            )
        for name, default in self.arguments.items():
            if default is inspect.Parameter.empty and name not in arguments:
                raise ConfigError(f"{self.name}({signature}) needs the argument '{name}'")
        try:
            return self.method(model, **arguments)
        except NequIPError:
            raise
        except ImportError as error:
            raise MissingDependencyError(f"{self.name}: {error}") from error
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"{self.name}: {error}") from error


def get_all_modifiers(module: torch.nn.Module) -> dict[str, ModelModifier]:
    """Return the modifiers of everything that `module` is made of, by name, sorted.

    Args:
        module: a model, possibly of a package.

    Raises:
        ConfigError: two classes have different modifiers of one name.
    """
    found: dict[str, Any] = {}
    for kind in sorted({type(part) for part in module.modules()}, key=_class_name):
        for name in dir(kind):
            method = inspect.getattr_static(kind, name)
            if not isinstance(method, classmethod):
                continue
            if not hasattr(method.__func__, f"{_MARK}is_persistent"):
                continue
            owner = next(base for base in kind.__mro__ if name in vars(base))
            # Bound to the class that defines it, whose subclasses it changes, too.
            bound = getattr(owner, name)
            known = found.setdefault(name, bound)
            if known.__func__ is not bound.__func__:
                classes = [_class_name(known.__self__), _class_name(owner)]
                raise ConfigError(f"the modifier '{name}' is defined twice, by {classes}")
    return {name: _described(name, found[name]) for name in sorted(found)}


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _described(name: str, method: Any) -> ModelModifier:
    parameters = list(inspect.signature(method).parameters.values())[1:]
    modes = getattr(method, f"{_MARK}supported_compile_modes", None)
    return ModelModifier(
        name=name,
        method=method,
        is_persistent=bool(getattr(method, f"{_MARK}is_persistent")),
        # Marks that came later are absent in older packages.
        is_private=bool(getattr(method, f"{_MARK}is_private", False)),
        unsupported_devices=tuple(getattr(method, f"{_MARK}unsupported_devices", None) or ()),
        supported_compile_modes=None if modes is None else tuple(modes),
        arguments={parameter.name: parameter.default for parameter in parameters},
        summary=(inspect.getdoc(method) or "").partition("\n")[0],
    )


@contextlib.contextmanager
def only_apply_persistent_modifiers(only: bool = True) -> Iterator[None]:
    """Skip accelerations inside, as for reading a checkpoint in order to save the model anew."""
    token = _ONLY_PERSISTENT.set(only)
    try:
        yield
    finally:
        _ONLY_PERSISTENT.reset(token)


def apply_modifiers(
    model: torch.nn.Module, modifiers: Sequence[Mapping[str, Any]], device: str | None = None
) -> torch.nn.Module:
    """Return the model with modifiers applied in order.

    Persistent ones are added to the model's ``description``, where it has one.

    Args:
        model: one model; it is changed in place as far as its modifiers do so.
        modifiers: one mapping each: ``modifier``, its name, and its arguments.
        device: where the model is to run, e.g. ``cuda:0``; None if that is not known yet.

    Raises:
        ConfigError: a modifier or an argument is unknown or wrong, or does not run on `device`.
        MissingDependencyError: a library that a modifier uses is not installed.
    """
    if isinstance(modifiers, Mapping | str) or not isinstance(modifiers, Sequence):
        raise ConfigError(f"modifiers must be a list of mappings, got {modifiers!r}")
    for entry in modifiers:
        if not isinstance(entry, Mapping) or _NAME_KEY not in entry:
            raise ConfigError(f"a modifier is a mapping with the key '{_NAME_KEY}', got {entry!r}")
        arguments = {key: value for key, value in entry.items() if key != _NAME_KEY}
        known, name = get_all_modifiers(model), str(entry[_NAME_KEY])
        if name not in known:
            public = [other for other, modifier in known.items() if not modifier.is_private]
            raise ConfigError(
                f"the model has no modifier '{name}', only {public}{closest(name, public)}"
            )
        modifier = known[name]
        if _ONLY_PERSISTENT.get() and not modifier.is_persistent:
            continue
        if device is not None and device.partition(":")[0] in modifier.unsupported_devices:
            raise ConfigError(f"with {name} the model does not run on the device '{device}'")
        before, model = model, modifier(model, **arguments)
        if modifier.is_persistent:
            _record(before, model, {_NAME_KEY: name, **arguments})
    return model


def _record(before: torch.nn.Module, model: Any, entry: dict[str, Any]) -> None:
    """Add a modifier to the model's description, a copy of which every reading returns."""
    description = getattr(before, "description", None)
    if isinstance(description, dict):
        description["modifiers"] = [*description.get("modifiers", []), entry]
        model.description = description
