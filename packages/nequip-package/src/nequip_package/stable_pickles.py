"""Pickles that are the same in every process, for models that would pickle otherwise.

What differs by process: the order of sets; which equal texts are one object, for a pickle stores an
object once and refers to it afterwards; and the memory addresses by which torch names storages in a
pickle inside a pickle (generated code of e3nn is stored so).
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

__all__ = ["stable_pickles"]

# Of the pickler in Python, from which that of torch.package takes it when it is made.
_DISPATCH: dict[type, Any] = pickle._Pickler.dispatch  # type: ignore[attr-defined]


@contextlib.contextmanager
def stable_pickles(models: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Let equal models give equal pickles inside; the models are as before afterwards.

    Args:
        models: what will be pickled.
    """
    with contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(_ordered_sets(model))
        for kind in (torch.storage.TypedStorage, torch.storage.UntypedStorage):
            stack.enter_context(_replaced(copyreg.dispatch_table, kind, _reduce_storage))
        for value_kind in (str, bytes):
            by_value = _saved_by_value(_DISPATCH[value_kind])
            stack.enter_context(_replaced(_DISPATCH, value_kind, by_value))
        yield


class _OrderedSet(set[Any]):
    """A set that is pickled as a plain set, its items in a fixed order."""

    def __reduce__(self) -> tuple[type[set[Any]], tuple[list[Any]]]:
        return set, (sorted(self, key=repr),)


@contextlib.contextmanager
def _ordered_sets(models: torch.nn.Module) -> Iterator[None]:
    """Order the sets that modules hold: torch keeps the names of non-persistent buffers in one."""
    found = [
        (vars(module), name, value)
        for module in models.modules()
        for name, value in vars(module).items()
        if type(value) is set
    ]
    try:
        for attributes, name, value in found:
            attributes[name] = _OrderedSet(value)
        yield
    finally:
        for attributes, name, value in found:
            attributes[name] = value


@contextlib.contextmanager
def _replaced(table: dict[Any, Any], kind: type, entry: Callable[..., Any]) -> Iterator[None]:
    """Put an entry into a table inside: picklers that others make look nowhere else."""
    before = table.get(kind)
    table[kind] = entry
    try:
        yield
    finally:
        if before is None:
            del table[kind]
        else:
            table[kind] = before


def _saved_by_value(save: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Return `save` of a pickler so that an equal value is referred to, not stored again."""

    def save_once(pickler: Any, value: Any) -> None:
        seen = vars(pickler).setdefault("_values_seen", {})
        known = seen.setdefault(value, value)
        if known is not value and id(known) in pickler.memo:
            pickler.write(pickler.get(pickler.memo[id(known)][0]))
        else:
            save(pickler, known)

    return save_once


def _reduce_storage(storage: Any) -> tuple[Callable[..., Any], tuple[bytes]]:
    """Return what ``storage.__reduce__()`` does, with 0 in place of the storage's address."""
    buffer = io.BytesIO()
    torch.save(storage, buffer, _use_new_zipfile_serialization=False)
    key = str(storage._cdata).encode("ascii")
    written = b"X" + len(key).to_bytes(4, "little") + key
    # Twice before the data: in the description of the storage, and in the list of all of them.
    content = buffer.getvalue().replace(written, b"X\x01\x00\x00\x000", 2)
    return torch.storage._load_from_bytes, (content,)
