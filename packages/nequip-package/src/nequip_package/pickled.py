"""What a pickle would do, read from its instructions. Nothing is imported, called or made.

A pickle is a program for a small stack machine. `read_pickle` follows the program and puts a
description in the place of every object that it would make: `Global` for an imported name, `Call`
for a call, `Persistent` for what the reader supplies (in a package: tensor data), `Items` for a
mapping. Its cost is linear in the length of the pickle.
"""

from __future__ import annotations

import _compat_pickle
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nequip_core.errors import FileFormatError

__all__ = ["Call", "Global", "Items", "Persistent", "Pickled", "read_pickle", "walk"]


@dataclass(frozen=True)
class Global:
    """A name that unpickling imports."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Items:
    """A mapping, as the pairs in the order in which they are set."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)

    def get(self, key: str) -> Any:
        """Return the value that `key` has in the end, or None."""
        return next((value for name, value in reversed(self.pairs) if name == key), None)


@dataclass(eq=False)
class Call:
    """An object that a call makes: a function's result or an instance of a class.

    Attributes:
        function: what is called; a `Global` in any ordinary pickle.
        arguments: what it is called with; a tuple in any ordinary pickle.
        state: what is given to `__setstate__` or put into `__dict__`, or None.
        items: what is set or added to it afterwards: pairs and single items.
    """

    function: Any
    arguments: Any
    state: Any = None
    items: Items = field(default_factory=Items)
    elements: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class Persistent:
    """An object that the reader of the pickle supplies, by this key."""

    key: Any


@dataclass
class Pickled:
    """What a pickle describes.

    Attributes:
        value: description of the object that it makes.
        imports: every name that it imports, in order of first use.
        calls: every call, in order.
        persistent: everything that it asks its reader for.
    """

    value: Any = None
    imports: list[Global] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    persistent: list[Persistent] = field(default_factory=list)


def read_pickle(data: bytes, where: str) -> Pickled:
    """Return what a pickle describes.

    Args:
        data: the pickle.
        where: what it is, for messages.

    Raises:
        FileFormatError: `data` is no pickle or does not follow its own rules.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        return machine.found
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, UnicodeError) as error:
        raise FileFormatError(f"{where} is no well-formed pickle: {error!r}") from error


_MARK = object()

# Instructions that push their own argument, or something fixed.
_LITERALS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        (
            "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
            "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "BINUNICODE8",
            "SHORT_BINUNICODE", "BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BYTEARRAY8",
        ),
        lambda argument: argument,
    ),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: Items(),
    "EMPTY_SET": lambda _: [],
    "MARK": lambda _: _MARK,
    "NEXT_BUFFER": lambda _: Persistent("out-of-band buffer"),
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = {"FRAME", "READONLY_BUFFER"}


class _Machine:
    """The stack machine, with descriptions for objects."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.found = Pickled()
        self.known: dict[Global, None] = {}
        self.protocol = 0

    def step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self.stack.append(_LITERALS[name](argument))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[int(argument)])
        elif name in _TUPLES:
            count = _TUPLES[name]
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name == "STOP":
            self.found.value = self.stack.pop()
        elif name == "PROTO":
            self.protocol = int(argument)
        elif name not in _IGNORED:
            getattr(self, f"_{name.lower()}")(argument)

    def _since_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("a mark is missing")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def _import(self, module: Any, name: Any) -> Global:
        found = Global(str(module), str(name))
        self._note(found)
        if self.protocol < 3:
            # Old pickles name modules as Python 2 did, and Python translates.
            names = _compat_pickle.NAME_MAPPING, _compat_pickle.IMPORT_MAPPING
            moved = names[0].get((found.module, found.name))
            moved = moved or (names[1].get(found.module, found.module), found.name)
            found = Global(*moved)
            self._note(found)
        return found

    def _note(self, name: Global) -> None:
        if name not in self.known:
            self.known[name] = None
            self.found.imports.append(name)

    def _call(self, function: Any, arguments: Any) -> None:
        call = Call(function, arguments)
        self.found.calls.append(call)
        self.stack.append(call)

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self._import(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        # A name that is itself computed cannot be known without running the pickle.
        known = isinstance(module, str) and isinstance(name, str)
        self.stack.append(self._import(module, name) if known else self._import("?", "?"))

    def _inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._call(self._import(module, name), tuple(self._since_mark()))

    def _obj(self, _: Any) -> None:
        kind, *arguments = self._since_mark()
        self._call(kind, tuple(arguments))

    def _newobj(self, _: Any) -> None:
        arguments = self.stack.pop()
        self._call(self.stack.pop(), arguments)

    def _newobj_ex(self, _: Any) -> None:
        keywords, arguments = self.stack.pop(), self.stack.pop()
        self._call(self.stack.pop(), (arguments, keywords))

    _reduce = _newobj

    def _ext1(self, argument: int) -> None:
        self.stack.append(self._import("copyreg", f"extension {argument}"))

    _ext2 = _ext4 = _ext1

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Call):
            self.stack[-1].state = state

    def _binpersid(self, _: Any) -> None:
        self._persid(self.stack.pop())

    def _persid(self, key: Any) -> None:
        self.stack.append(Persistent(key))
        self.found.persistent.append(self.stack[-1])

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    _frozenset = _list

    def _dict(self, _: Any) -> None:
        self.stack.append(Items(_pairs(self._since_mark())))

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        self._extend(self.stack[-1], [item])

    def _appends(self, _: Any) -> None:
        items = self._since_mark()
        self._extend(self.stack[-1], items)

    _additems = _appends

    @staticmethod
    def _extend(target: Any, items: list[Any]) -> None:
        (target.elements if isinstance(target, Call) else target).extend(items)

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [(key, value)])

    def _setitems(self, _: Any) -> None:
        pairs = _pairs(self._since_mark())
        self._set(self.stack[-1], pairs)

    @staticmethod
    def _set(target: Any, pairs: list[tuple[Any, Any]]) -> None:
        (target.items if isinstance(target, Call) else target).pairs.extend(pairs)

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def walk(value: Any) -> Iterator[Any]:
    """Yield every description that `value` is made of, itself included, each once."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, tuple | list):
            waiting.extend(item)
        elif isinstance(item, Items):
            waiting.extend(part for pair in item.pairs for part in pair)
        elif isinstance(item, Call):
            waiting += [item.function, item.arguments, item.state, item.items, item.elements]
        elif isinstance(item, Persistent):
            waiting.append(item.key)
