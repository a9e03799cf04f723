"""The pickled models of a ``nequip`` package as inert objects: nothing is imported, no code runs.

A package holds its model as a pickle of ``torch.nn.Module`` objects whose code lies beside it. Here
only tensors, numbers, text and containers are made from that pickle. Every class it names becomes
an `InertObject`, which keeps the arguments and attributes that the pickle gives it.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from typing import Any

import torch

from nequip_core.archive.format import EAGER_MODEL, MODEL_FOLDER
from nequip_core.archive.reader import PackageReader
from nequip_core.errors import FileFormatError

__all__ = ["InertObject", "non_persistent_buffers", "read_inert_models", "state_of"]

# Far above any published network, and far below what makes a machine swap.
MAX_PICKLE_BYTES = 256 * 2**20
MAX_STORAGE_BYTES = 8 * 2**30

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (*_STORAGE_DTYPES.values(), torch.complex64)
}
_MEMO_OPCODES = ("PUT", "BINPUT", "LONG_BINPUT")


class InertObject:
    """Stands for an object of a class that was not imported.

    Attributes:
        inert_class: dotted name of the class or function in the pickle.
        inert_arguments: what it was called with.
        inert_items: what the pickle appended to it or set in it.
    """

    inert_class = ""

    def __new__(cls, *arguments: Any, **_: Any) -> InertObject:
        """Return an object that remembers its arguments."""
        made = super().__new__(cls)
        made.__dict__["inert_arguments"] = arguments
        made.__dict__["inert_items"] = []
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        """Do nothing: the arguments are kept by ``__new__``."""

    def __setstate__(self, state: Any) -> None:
        """Take the attributes that the pickle gives."""
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})
        else:
            self.__dict__["inert_state"] = state

    def append(self, item: Any) -> None:
        """Keep an item of a list-like object."""
        self.inert_items.append(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.inert_items.append((key, value))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the pickled {self.inert_class} has no attribute '{name}'")


class _StorageType:
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


def read_inert_models(reader: PackageReader) -> dict[str, InertObject]:
    """Return the graph models of a package by name, as inert objects.

    Raises:
        FileFormatError: a member is missing, damaged or beyond the size limits, or the pickle does
            not hold a ``ModuleDict`` of models.
    """
    member = f"{MODEL_FOLDER}/{EAGER_MODEL}"
    content = _read_limited(reader, member, MAX_PICKLE_BYTES)
    _check_memo(content, member)
    try:
        found = _InertUnpickler(content, reader).load()
        modules = found._modules
        models = {str(name): model for name, model in modules.items()}
    except FileFormatError:
        raise
    except Exception as error:  # whatever a hostile or damaged pickle makes the machine raise
        raise FileFormatError(
            f"'{member}' of '{reader.path}' is damaged or holds no models: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not models or not all(isinstance(model, InertObject) for model in models.values()):
        raise FileFormatError(f"'{member}' of '{reader.path}' holds no models")
    return models


def state_of(module: InertObject, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return the state dict of an inert ``torch.nn.Module``: parameters and persistent buffers."""
    state: dict[str, torch.Tensor] = {}
    hidden: set[str] = getattr(module, "_non_persistent_buffers_set", set())
    for kind in ("_parameters", "_buffers"):
        for name, value in getattr(module, kind, {}).items():
            if isinstance(value, torch.Tensor) and name not in hidden:
                state[prefix + name] = value
    for name, child in getattr(module, "_modules", {}).items():
        if isinstance(child, InertObject):
            state.update(state_of(child, f"{prefix}{name}."))
    return state


def non_persistent_buffers(module: InertObject, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return the buffers that a state dict leaves out, by their dotted names."""
    found: dict[str, torch.Tensor] = {}
    buffers = getattr(module, "_buffers", {})
    for name in getattr(module, "_non_persistent_buffers_set", set()):
        if isinstance(buffers.get(name), torch.Tensor):
            found[prefix + name] = buffers[name]
    for name, child in getattr(module, "_modules", {}).items():
        if isinstance(child, InertObject):
            found.update(non_persistent_buffers(child, f"{prefix}{name}."))
    return found


def _read_limited(reader: PackageReader, member: str, limit: int) -> bytes:
    sizes = {name: size for size, name in reader.members()}
    size = sizes.get(f"{reader.root}/{member}", 0)
    if size > limit:
        raise FileFormatError(
            f"'{member}' of '{reader.path}' has {size} bytes, more than the {limit} that an "
            "import reads"
        )
    return reader.read_bytes(member)


def _check_memo(content: bytes, member: str) -> None:
    """Raise if the pickle asks for a memo larger than itself: that is an attack on memory."""
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in _MEMO_OPCODES and int(argument or 0) > len(content):
                raise FileFormatError(f"'{member}' is not a pickle that torch.package writes")
    except ValueError as error:
        raise FileFormatError(f"'{member}' is damaged: {error}") from error


class _InertUnpickler(pickle.Unpickler):
    """Makes containers, tensors and `InertObject`; imports nothing."""

    def __init__(self, content: bytes, reader: PackageReader) -> None:
        super().__init__(io.BytesIO(content))
        self._reader = reader
        self._storages: dict[str, torch.Tensor] = {}
        self._bytes_left = MAX_STORAGE_BYTES
        self._classes: dict[str, type[InertObject]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return our own maker of tensors and containers, or an inert class."""
        known: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "builtins.set": set,
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
        }
        dotted = f"{module}.{name}"
        if dotted in known:
            return known[dotted]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module in ("torch", "torch.storage") and name in _STORAGE_DTYPES:
            return _StorageType(_STORAGE_DTYPES[name])
        if dotted not in self._classes:
            made = type(name.rpartition(".")[2], (InertObject,), {"inert_class": dotted})
            self._classes[dotted] = made
        return self._classes[dotted]

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage as a flat tensor; anything else that lies outside stays inert."""
        if not isinstance(pid, tuple) or not pid or pid[0] != "storage":
            return InertObject(pid)
        _, kind, key, _, size = pid
        if not isinstance(kind, _StorageType):
            raise FileFormatError(f"'{self._reader.path}' has tensors of an unknown type")
        if key not in self._storages:
            content = _read_limited(self._reader, f".data/{key}.storage", self._bytes_left)
            self._bytes_left -= len(content)
            if len(content) != size * kind.dtype.itemsize:
                raise FileFormatError(
                    f"'.data/{key}.storage' of '{self._reader.path}' has {len(content)} bytes, "
                    f"expected {size * kind.dtype.itemsize}"
                )
            empty = torch.empty(0, dtype=kind.dtype)
            flat = torch.frombuffer(bytearray(content), dtype=kind.dtype) if content else empty
            self._storages[key] = flat
        return self._storages[key]


def _tensor(storage: torch.Tensor, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """Return a tensor over a storage; like torch's own, but within the storage's bounds."""
    if math.prod(size) > storage.numel():
        raise FileFormatError(f"a tensor of shape {tuple(size)} is larger than its storage")
    return storage.as_strided(tuple(size), tuple(stride), int(offset))


def _parameter(data: torch.Tensor, requires_grad: bool, *_: Any) -> torch.nn.Parameter:
    return torch.nn.Parameter(data, requires_grad=bool(requires_grad))
