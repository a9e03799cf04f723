"""The weights of a package by name, as numpy arrays, without torch and without unpickling."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from nequip_core.archive.format import EAGER_MODEL_MEMBER
from nequip_core.archive.format import WEIGHTS_MEMBER as _WEIGHTS
from nequip_core.archive.reader import PackageReader
from nequip_core.archive.tensor_files import read_tensor_headers
from nequip_core.archive.texts import TextError
from nequip_core.errors import FileFormatError
from nequip_package.pickled import Call, Global, Items, Persistent, read_pickle

if TYPE_CHECKING:
    import numpy as np

__all__ = ["StoredTensor", "package_tensors"]

# Name of the element type -> how numpy writes it. bfloat16, which numpy lacks, is the upper half
# of a float32.
_NUMPY_CODES = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1", "uint8": "u1", "bool": "?",
    "complex64": "<c8", "complex128": "<c16",
}  # fmt: skip
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}  # fmt: skip
_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_MOST_MODULES = 100_000
_REPEATED = 10**7  # elements of a tensor that has fewer numbers than elements


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a package.

    Attributes:
        name: ``<model>.<state-dict name>``.
        dtype: type of its elements, e.g. ``float64``.
        shape: its shape.
        is_parameter: it is a parameter, not a buffer; None where the file does not tell.
        read: returns the values, of `shape`; bfloat16 as float32.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_parameter: bool | None
    read: Callable[[], np.ndarray]


@contextlib.contextmanager
def package_tensors(package: PackageReader) -> Iterator[dict[str, StoredTensor]]:
    """Yield every parameter and persistent buffer of the models in a package, by name.

    Format 3 has them as safetensors. Of formats 1 and 2 the pickled eager models are read as text.
    Values can be read inside of the ``with`` only.

    Raises:
        FileFormatError: the weights cannot be found, or are damaged.
    """
    with contextlib.ExitStack() as stack:
        if package.format_version >= 3:
            weights = stack.enter_context(package.open_member(_WEIGHTS))
            found = list(_from_safetensors(package, weights))
        else:
            found = list(_from_pickle(package))
        yield {tensor.name: tensor for tensor in sorted(found, key=lambda tensor: tensor.name)}


def _from_safetensors(package: PackageReader, file: BinaryIO) -> Iterator[StoredTensor]:
    try:
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        headers, _ = read_tensor_headers(file, length)
        for name, header in headers.items():
            dtype, shape = _SAFETENSORS[header.dtype], header.shape
            read = _Stretch(file, header.start, header.size, dtype, shape)
            yield StoredTensor(name, dtype, shape, None, read)
    except (TextError, KeyError) as error:
        raise FileFormatError(f"'{_WEIGHTS}' of '{package.path}' is damaged: {error!r}") from error


@dataclass(frozen=True)
class _Stretch:
    """The values of a tensor that lies in one piece in an open file."""

    file: BinaryIO
    start: int
    size: int
    dtype: str
    shape: tuple[int, ...]

    def __call__(self) -> np.ndarray:
        self.file.seek(self.start)
        return _array(self.file.read(self.size), self.dtype).reshape(self.shape)


def _from_pickle(package: PackageReader) -> Iterator[StoredTensor]:
    member = EAGER_MODEL_MEMBER
    value = read_pickle(package.read_bytes(member), f"'{member}' of '{package.path}'").value
    try:
        yield from _of_module(package, value, "", (), itertools.count())
    except (RecursionError, ValueError, TypeError, IndexError) as error:
        raise FileFormatError(
            f"'{member}' of '{package.path}' holds modules of an unknown form: {error!r}"
        ) from error


def _of_module(
    package: PackageReader,
    module: Any,
    prefix: str,
    above: tuple[int, ...],
    counter: Iterator[int],
) -> Iterator[StoredTensor]:
    """Yield the tensors of a pickled module and of all below it."""
    if next(counter) > _MOST_MODULES:  # a few that hold each other twice stand for any number
        raise ValueError(f"more than {_MOST_MODULES} modules")
    if not isinstance(module, Call) or not isinstance(module.state, Items) or id(module) in above:
        return
    transient = _keys(module.state.get("_non_persistent_buffers_set"))
    for group, is_parameter in (("_parameters", True), ("_buffers", False)):
        for name, value in _pairs(module.state.get(group)):
            tensor = _tensor(package, f"{prefix}{name}", value, is_parameter)
            if tensor is not None and name not in transient:
                yield tensor
    for name, child in _pairs(module.state.get("_modules")):
        yield from _of_module(package, child, f"{prefix}{name}.", (*above, id(module)), counter)


def _pairs(mapping: Any) -> list[tuple[Any, Any]]:
    """Return the pairs of a dict or an OrderedDict, a later one of the same key instead."""
    items = mapping.items if isinstance(mapping, Call) else mapping
    return list(dict(items.pairs).items()) if isinstance(items, Items) else []


def _keys(names: Any) -> set[str]:
    """Return the members of a pickled set of text."""
    if isinstance(names, Call) and names.arguments:
        names = names.arguments[0]
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def _tensor(
    package: PackageReader, name: str, value: Any, is_parameter: bool
) -> StoredTensor | None:
    while isinstance(value, Call) and str(value.function).startswith(
        "torch._utils._rebuild_parameter"
    ):
        if not isinstance(value.arguments, tuple):  # a list could hold the call itself
            raise TypeError(f"'{name}' is made from a {type(value.arguments).__name__}")
        value = value.arguments[0]
    if not isinstance(value, Call) or str(value.function) != "torch._utils._rebuild_tensor_v2":
        return None
    storage, offset, shape, stride = value.arguments[:4]
    kind, number = _storage(storage, package, name)
    dtype = _STORAGES[kind]
    numbers = (offset, *shape, *stride)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise FileFormatError(f"'{name}' of '{package.path}' has no valid shape")

    def read() -> np.ndarray:
        import numpy as np

        flat = _array(package.read_bytes(f".data/{number}.storage"), dtype)
        last = offset + sum(step * (size - 1) for step, size in zip(stride, shape, strict=True))
        if 0 in shape:
            return np.zeros(shape, flat.dtype)
        if last >= flat.size:
            raise FileFormatError(f"'{name}' of '{package.path}' reaches beyond its storage")
        if math.prod(shape) > max(flat.size, _REPEATED):  # a step of 0 repeats numbers
            raise FileFormatError(f"'{name}' of '{package.path}' repeats {flat.size} numbers")
        steps = [step * flat.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False).copy()

    return StoredTensor(name, dtype, tuple(shape), is_parameter, read)


def _storage(storage: Any, package: PackageReader, name: str) -> tuple[str, str]:
    """Return the type name and the number of a storage."""
    key = storage.key if isinstance(storage, Persistent) else None
    if (
        isinstance(key, tuple)
        and len(key) == 5
        and key[0] == "storage"
        and isinstance(key[1], Global)
        and key[1].name in _STORAGES
    ):
        return key[1].name, str(key[2])
    raise FileFormatError(f"'{name}' of '{package.path}' has a storage of an unknown kind")


def _array(data: bytes, dtype: str) -> np.ndarray:
    import numpy as np

    flat = np.frombuffer(data, np.dtype(_NUMPY_CODES[dtype]))
    if dtype == "bfloat16":
        return (flat.astype(np.uint32) << 16).view(np.float32)
    return flat
