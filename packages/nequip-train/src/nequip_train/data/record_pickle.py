"""Records of plain values and tensors, read from pickles without importing or running anything.

A pickle names functions and classes, and a usual reader imports and calls whatever is named. Here
the few names that tensors, arrays and containers need stand for functions of this module, any other
one is refused. See decision record 0021.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nequip_core.errors import DataError

__all__ = ["read_record", "written_record"]

_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}
# The first two of the pickles that torch writes before a storage.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_REPEATED = 10**7
# Numbers, truth values and text: what an array may hold as bytes.
_PLAIN_KINDS = "?biufcSU"


def written_record(value: Any) -> bytes:
    """Return the pickle of a record, as `read_record` and other readers of the format take it."""
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def read_record(content: bytes | memoryview, where: str) -> Any:
    """Return the value of a pickle: plain containers and values, NumPy arrays, tensors on the CPU.

    Tensors share no memory with `content` and need no gradients.

    Args:
        content: the pickle.
        where: what messages call it.

    Raises:
        DataError: the pickle is damaged, or names anything but these types; the message says what.
    """
    try:
        return _plain(_RecordUnpickler(io.BytesIO(content), _GLOBALS).load(), {})
    except _Refused as refused:
        raise DataError(
            f"{where} asks for '{refused}', which is not loaded: a record holds plain containers, "
            "numbers, NumPy arrays and tensors only. Write the file again from such frames, where "
            "you trust what made it"
        ) from None
    # Damaged pickles fail in whatever their bytes happen to ask for.
    except Exception as error:
        raise DataError(
            f"{where} cannot be read as a pickled record ({type(error).__name__}: {error})"
        ) from error


class _Refused(Exception):  # noqa: N818 - no error by itself: it carries the name
    """A pickle names something that is not loaded; the text is the name."""


class _Made:
    """A function that a pickle may call and cannot change."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Refused(f"a change of {name}")

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class _Inert:
    """A value that a pickle has made and cannot change any more."""

    __slots__ = ("value",)
    value: Any

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "value", value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Refused(f"a change of {name}")


class _RecordUnpickler(pickle.Unpickler):
    """Knows the names of a table and nothing else."""

    def __init__(self, file: io.BytesIO, table: dict[str, Any]) -> None:
        super().__init__(file)
        self._table = table

    def find_class(self, module: str, name: str) -> Any:
        """Return what the table has for a name."""
        # Pickles of protocol 2 have the name of Python 2.
        dotted = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if dotted not in self._table:
            raise _Refused(dotted)
        return self._table[dotted]

    def persistent_load(self, pid: Any) -> Any:
        """Return the dtype and length of a storage, whatever device it was on."""
        tag, dtype, _key, _device, length, view = pid
        if tag != "storage" or not isinstance(dtype, torch.dtype) or view is not None:
            raise _Refused("a value outside of the pickle")
        return dtype, length


def _storage(content: bytes) -> _Inert:
    """Return the storage in the bytes that torch writes for one, as a flat tensor."""
    file = io.BytesIO(content)

    def following() -> Any:
        return _RecordUnpickler(file, _STORAGE_GLOBALS).load()

    if following() != _MAGIC or following() != _PROTOCOL:
        raise ValueError("not a storage as torch writes it")
    if not following()["little_endian"]:
        raise ValueError("a storage of a big-endian machine")
    (dtype, length), _keys = following(), following()
    numbers = content[file.tell() + 8 :]  # after the length once more, 8 bytes
    if len(numbers) != length * dtype.itemsize:
        raise ValueError(f"a storage of {len(numbers)} bytes, expected {length} of {dtype}")
    if length == 0:
        return _Inert(torch.empty(0, dtype=dtype))
    return _Inert(torch.frombuffer(bytearray(numbers), dtype=dtype))


def _tensor(storage: _Inert, offset: int, size: Any, stride: Any, *_: Any) -> _Inert:
    """Return a tensor over a storage, without gradient and hooks; torch checks the bounds."""
    flat = storage.value
    # A stride of 0 repeats numbers: small files could ask for any amount of memory.
    if math.prod(size) > max(flat.numel(), _REPEATED):
        raise ValueError(f"a tensor of shape {tuple(size)} over {flat.numel()} numbers")
    return _Inert(flat.as_strided(tuple(size), tuple(stride), offset))


class _DType:
    """A NumPy dtype in the making: pickles give its byte order, and flags that are left, later."""

    def __init__(self, name: str, *_: Any) -> None:
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in _PLAIN_KINDS + "O":
            raise _Refused(f"numpy.dtype('{name}')")

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order in ("<", ">", "=") and self.dtype.kind != "O":
            self.dtype = self.dtype.newbyteorder(order)


def _dtype(name: str, *_: Any) -> _DType:
    return _DType(name)


class _Array:
    """A NumPy array in the making: pickles give its shape, dtype and content later."""

    def __setstate__(self, state: Any) -> None:
        _version, self.shape, self.kind, self.fortran, self.content = state

    def array(self, known: dict[int, Any]) -> np.ndarray:
        """Return the array; `known` is that of `_plain`."""
        order: Any = "F" if self.fortran else "C"
        if not isinstance(self.content, list):
            return _from_buffer(self.content, self.kind, self.shape, order).value
        array = np.empty(len(self.content), dtype=object)
        for index, value in enumerate(self.content):
            array[index] = _plain(value, known)
        return array.reshape(self.shape, order=order)


def _array(kind: Any, *_: Any) -> _Array:
    if kind != "numpy.ndarray":
        raise _Refused("an array of another class")
    return _Array()


def _from_buffer(content: Any, kind: _DType, shape: Any, order: Any) -> _Inert:
    """Return the array of raw bytes; `numpy.frombuffer` refuses a dtype of objects."""
    flat = np.frombuffer(memoryview(content), dtype=kind.dtype)
    return _Inert(flat.reshape(shape, order=order).copy())


def _scalar(kind: _DType, content: bytes) -> Any:
    return np.frombuffer(content, dtype=kind.dtype)[0]


def _encoded(text: str, encoding: str) -> bytes:
    """Return bytes that old protocols of pickle write as text."""
    if encoding != "latin1":
        raise _Refused(f"text encoded as {encoding}")
    return text.encode("latin1")


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """Return `value` with the arrays in the making made; only plain containers are gone into.

    Args:
        value: what the pickle made; it stays alive while `known` is used.
        known: results by the id of what they are made of. What occurs often in a record is made
            once, so that a small file cannot ask for any amount of memory.
    """
    if isinstance(value, _Inert):
        return value.value
    if isinstance(value, _DType | _Made):
        raise _Refused("a dtype or function as a value")
    if id(value) in known:
        return known[id(value)]
    made = value
    if isinstance(value, _Array):
        made = value.array(known)
    elif type(value) is dict:
        made = {_plain(key, known): _plain(item, known) for key, item in value.items()}
    elif type(value) in (list, tuple, set, frozenset):
        made = type(value)(_plain(item, known) for item in value)
    known[id(value)] = made
    return made


_STORAGE_GLOBALS: dict[str, Any] = {
    f"{module}.{name}": dtype
    for module in ("torch", "torch.storage")
    for name, dtype in _STORAGES.items()
}
_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _Made(dict),
    "builtins.bytes": _Made(lambda: b""),
    "builtins.complex": _Made(complex),
    "builtins.set": _Made(set),
    "builtins.frozenset": _Made(frozenset),
    "_codecs.encode": _Made(_encoded),
    "torch._utils._rebuild_tensor_v2": _Made(_tensor),
    "torch._utils._rebuild_parameter": _Made(lambda tensor, *_: tensor),
    "torch.storage._load_from_bytes": _Made(_storage),
    # Not the class: as the argument of the function that makes arrays, its name is enough.
    "numpy.ndarray": "numpy.ndarray",
    "numpy.dtype": _Made(_dtype),
    **{
        f"numpy.{core}.{name}": _Made(function)
        for core in ("core", "_core")
        for name, function in (
            ("multiarray._reconstruct", _array),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}
"""What each name of a record stands for."""
