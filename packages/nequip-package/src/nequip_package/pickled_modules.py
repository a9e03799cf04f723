"""Which modules a pickle of models will name, found without copying a single weight."""

from __future__ import annotations

import copyreg
import io
import pickle
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nequip_core.errors import PackagingError

if TYPE_CHECKING:
    import torch

__all__ = ["pickled_modules"]


def pickled_modules(models: Mapping[str, torch.nn.Module]) -> dict[str, str]:
    """Return the module of every class and function in these models -> what holds it.

    Args:
        models: name -> model.

    Raises:
        PackagingError: something in a model cannot be pickled.
    """
    found: dict[str, str] = {}
    for name, model in models.items():
        holder = f"model '{name}'"
        collector = _Collector()
        try:
            collector.dump(model)
        except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
            raise PackagingError(f"{holder} cannot be pickled: {error}") from error
        for module in collector.modules:
            found.setdefault(module, holder)
    return found


def _rebuilt() -> None:
    """Stand for a class or function in a pickle that nobody reads."""


class _Collector(pickle.Pickler):
    """Pickles an object without its tensors and notes where its classes are defined."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), protocol=3)
        self.modules: dict[str, None] = {}

    def persistent_id(self, obj: Any) -> str | None:
        import torch

        stored = isinstance(obj, torch.Tensor | torch.storage.UntypedStorage)
        if stored and type(obj) not in (torch.Tensor, torch.nn.Parameter):
            self._note(type(obj))
        return "tensor" if stored else None

    def reducer_override(self, obj: Any) -> Any:
        if obj is _rebuilt or not isinstance(
            obj, type | types.FunctionType | types.BuiltinFunctionType
        ):
            return NotImplemented
        if isinstance(obj, types.BuiltinFunctionType) and not isinstance(
            obj.__self__, types.ModuleType | None
        ):
            return NotImplemented  # a method of a built-in object
        self._note(obj)
        if obj.__module__ in ("builtins", copyreg.__name__):
            return NotImplemented
        return _rebuilt, ()

    def _note(self, obj: Any) -> None:
        if "<" in obj.__qualname__:
            raise pickle.PicklingError(
                f"'{obj.__module__}.{obj.__qualname__}' is defined inside a function; define it at "
                "the top of a module"
            )
        module = obj.__module__ or pickle.whichmodule(obj, obj.__qualname__)  # type: ignore[attr-defined]
        if module != "builtins":
            self.modules[module] = None
