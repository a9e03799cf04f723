"""Marks of model modifiers, and the exchange of submodules in place.

A modifier is a classmethod of a module, ``(cls, model, **arguments) -> model``, that changes every
`cls` in a model. Its marks are attributes of the function, so that whoever meets a packaged model,
whose classes are not the installed ones, finds it without knowing the class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["model_modifier", "replace_submodules"]


def model_modifier(
    persistent: bool,
    private: bool | None = None,
    unsupported_devices: Sequence[str] = (),
    supported_compile_modes: Sequence[str] | None = None,
) -> Callable[[Any], Any]:
    """Mark a classmethod as a model modifier; stands above ``@classmethod``.

    Args:
        persistent: the change is part of the model and stays when it is saved; otherwise it is an
            acceleration of the run at hand, to be asked for again.
        private: for the use of code, not offered to users; None means no.
        unsupported_devices: device types on which the modified model cannot run, e.g. ``cpu``.
        supported_compile_modes: compile modes the modified model works in; None means all.

    Raises:
        TypeError: what is decorated is no classmethod.
    """

    def mark(method: Any) -> Any:
        if not isinstance(method, classmethod):
            raise TypeError(
                "model_modifier stands above @classmethod, of a method (cls, model, **arguments)"
            )
        function: Any = method.__func__
        function._nequip_model_modifier_is_persistent = bool(persistent)
        function._nequip_model_modifier_is_private = bool(private)
        function._nequip_model_modifier_unsupported_devices = list(unsupported_devices)
        function._nequip_model_modifier_supported_compile_modes = (
            None if supported_compile_modes is None else list(supported_compile_modes)
        )
        return method

    return mark


def replace_submodules(
    model: torch.nn.Module,
    target_cls: type[torch.nn.Module],
    factory: Callable[[Any], torch.nn.Module],
) -> torch.nn.Module:
    """Return `model` with every submodule of a class replaced in place; never `model` itself.

    What comes new is in the train or eval mode of what it replaces and on its device; tensors of
    the same name have the same floating-point dtype.

    Args:
        model: the module whose submodules, at any depth, are replaced.
        target_cls: which ones; subclasses too. What is inside a replaced module is not searched.
        factory: the replacement for a module; may return the module itself.
    """
    for name, child in list(model.named_children()):
        if isinstance(child, target_cls):
            setattr(model, name, _like(factory(child), child))
        else:
            replace_submodules(child, target_cls, factory)
    return model


def _like(new: torch.nn.Module, old: torch.nn.Module) -> torch.nn.Module:
    """Return `new` with the mode of `old`, and its device and dtypes."""
    if new is old:
        return new
    tensors = {**dict(old.named_parameters()), **dict(old.named_buffers())}
    for tensor in tensors.values():
        new = new.to(tensor.device)
        break
    for name, tensor in [*new.named_parameters(), *new.named_buffers()]:
        if name in tensors and tensor.is_floating_point():
            tensor.data = tensor.data.to(tensors[name].dtype)
    return new.train(old.training)
