"""Records are read without running what their pickles name."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess

import numpy as np
import pytest
import torch

from nequip_core.errors import DataError
from nequip_train.data.record_pickle import read_record, written_record

VALUES = {
    "tensors": {
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
            torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128,
        )
    },
    "views": [torch.arange(12.0)[3:9].reshape(2, 3).T, torch.zeros(1).expand(5), torch.ones(0, 3)],
    "arrays": [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(8)[::2],
        np.array([], dtype=np.float32),
        np.array(["H", "He"]),
        np.arange(3, dtype=">f8"),
        np.array([True, False]),
    ],
    "objects": np.array([None, 3, "x"], dtype=object),
    "numbers": [np.float64(2.5), np.int32(3), np.bool_(True), 1, 2.5, True, None, 2**80, 1j],
    "containers": ["text", b"bytes", (1, [2]), {3}, frozenset({4}), {"a": {1: 2}}],
}  # fmt: skip


def equal(ours, theirs):
    if isinstance(theirs, torch.Tensor):
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(theirs, np.ndarray):
        return ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(equal(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", VALUES)
def test_plain_values_come_back_as_they_were(name, protocol):
    assert equal(read_record(pickle.dumps(VALUES[name], protocol), "here"), VALUES[name])


def test_parameters_and_ordered_dictionaries_become_plain():
    value = collections.OrderedDict(weight=torch.nn.Parameter(torch.ones(2)))
    read = read_record(written_record(value), "here")
    assert type(read) is dict and type(read["weight"]) is torch.Tensor
    assert not read["weight"].requires_grad


class Harmful:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


class OfUser:
    pass


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Harmful(os.system, "touch harm"), "system"),
        (Harmful(subprocess.call, ["touch", "harm"]), "subprocess.call"),
        (Harmful(eval, "open('harm', 'w')"), "builtins.eval"),
        (Harmful(getattr, "x", "upper"), "builtins.getattr"),
        (Harmful(torch.load, "harm"), "torch.serialization.load"),
        (OfUser(), "OfUser"),
        (np.dtype([("a", "i4")]), "dtype"),
        (np.dtype("f8"), "dtype"),
        (np.ma.array([1.0]), "numpy.ma"),
        (torch.ones(2).to_sparse(), "sparse"),
        (slice(0, 1), "slice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_any_other_name_is_refused_and_nothing_runs(value, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"frame 3 of 'x' asks for '.*{name}.*', which is not"):
        read_record(pickle.dumps({"pos": value}), "frame 3 of 'x'")
    assert list(tmp_path.iterdir()) == []


def test_a_storage_inside_a_storage_is_as_restricted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inner = pickle.dumps(Harmful(os.system, "touch harm"))
    outer = pickle.dumps(Harmful(torch.storage._load_from_bytes, inner))
    with pytest.raises(DataError, match=r"asks for '.*system'"):
        read_record(outer, "here")
    assert list(tmp_path.iterdir()) == []


def assembled(*parts):
    """A pickle of protocol 4 by its opcodes."""
    return b"\x80\x04" + b"".join(parts) + b"."


def named(module, name):
    return b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name)) + b"\x93"


STATE = b"N}\x8c\x09_function\x8c\x01xs\x86b"  # BUILD with (None, {"_function": "x"})
DICTIONARY = b"}\x8c\x09_function\x8c\x01xsb"


@pytest.mark.parametrize("state", [STATE, DICTIONARY])
@pytest.mark.parametrize(
    "name", ["torch._utils._rebuild_tensor_v2", "numpy.dtype", "collections.OrderedDict"]
)
def test_a_pickle_cannot_change_what_reads_it(name, state):
    with pytest.raises(DataError):
        read_record(assembled(named(*name.rsplit(".", 1)), state), "here")
    assert equal(read_record(written_record(VALUES["arrays"]), "here"), VALUES["arrays"])
    assert equal(read_record(written_record(VALUES["tensors"]), "here"), VALUES["tensors"])


def test_flags_of_a_dtype_are_left():
    # With the flags of objects, NumPy would take the numbers of an integer array for pointers.
    honest = pickle.dumps(np.arange(3, 6))
    assert honest.count(b"\xff\xff\xff\xffK\x00t") == 1
    array = read_record(honest.replace(b"\xff\xff\xff\xffK\x00t", b"\xff\xff\xff\xffK\x3ft"), "x")
    assert array.dtype.flags == np.dtype("i8").flags and array.tolist() == [3, 4, 5]


@pytest.mark.parametrize("replaced", [b"O8", b"V8"])
def test_bytes_are_never_taken_for_objects(replaced):
    for protocol in (2, 5):
        for value in (np.arange(3), np.int64(7)):
            content = pickle.dumps(value, protocol)
            assert content.count(b"i8") == 1
            with pytest.raises(DataError):
                read_record(content.replace(b"i8", replaced), "here")


def test_instances_of_nothing_are_made():
    # INST, OBJ and NEWOBJ make instances of classes; there is no class to make one of.
    for content in (
        b"(cbuiltins\nset\no.",
        b"(icollections\nOrderedDict\n.",
        b"cnumpy\nndarray\n)\x81.",
        b"cbuiltins\nset\n)\x81.",
        b"\x82\x01.",
    ):
        try:
            assert read_record(content, "here") in ({}, set())
        except DataError:
            continue


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(3, (2,), (1,)), (0, (10**9,), (0,)), (-1, (2,), (1,)), (0, (2,), (9,))],
)
def test_a_tensor_outside_of_its_storage_is_refused(offset, size, stride):
    class Outside:
        def __reduce__(self):
            storage = torch.storage.TypedStorage(
                wrap_storage=torch.ones(4).untyped_storage(), dtype=torch.float32, _internal=True
            )
            return torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, {})

    with pytest.raises(DataError, match="here cannot be read as a pickled record"):
        read_record(pickle.dumps(Outside()), "here")


def test_damaged_bytes_are_an_error_of_the_data():
    whole = written_record({"pos": torch.rand(20, 3), "n": np.arange(9)})
    generator = np.random.default_rng(0)
    refused = 0
    for length in range(0, len(whole), 7):
        with pytest.raises(DataError):
            read_record(whole[:length], "here")
    for _ in range(2000):
        damaged = bytearray(whole)
        damaged[generator.integers(len(whole))] = generator.integers(256)
        try:
            read_record(bytes(damaged), "here")
        except DataError:
            refused += 1
    assert refused > 100


def test_a_list_in_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(DataError, match="RecursionError"):
        read_record(pickle.dumps(loop), "here")


def test_what_occurs_often_is_made_once():
    value = [np.arange(3)]
    for _ in range(40):  # a trillion arrays, if each were made anew
        value = [value, value]
    found = read_record(pickle.dumps(value), "here")
    for _ in range(40):
        found = found[1]
    assert np.array_equal(found[0], np.arange(3))
