"""Tensors are written in the safetensors format, the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from nequip_core.errors import PackagingError
from nequip_package.tensors import tensors_bytes, write_tensors

TENSORS = {
    "b/double": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
    "a/single": torch.tensor([1.5, -2.0]),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(3),
    "truth": torch.tensor([True, False, True]),
}


def test_library_reads_back_what_was_written(tmp_path: Path) -> None:
    found = safetensors.torch.load(tensors_bytes(TENSORS, {"b": "2", "a": "1"}))
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    write_tensors(tmp_path / "a.safetensors", TENSORS, {"b": "2", "a": "1"})
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"a": "1", "b": "2"}


def test_order_of_insertion_does_not_matter(tmp_path: Path) -> None:
    backwards = dict(reversed(TENSORS.items()))
    content = tensors_bytes(TENSORS, {"b": "2", "a": "1"})
    assert tensors_bytes(backwards, {"a": "1", "b": "2"}) == content
    write_tensors(tmp_path / "a.safetensors", TENSORS, {"a": "1", "b": "2"})
    assert (tmp_path / "a.safetensors").read_bytes() == content


def test_every_tensor_is_aligned_to_its_items() -> None:
    content = tensors_bytes(TENSORS)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for name, entry in header.items():
        start = 8 + length + entry["data_offsets"][0]
        assert start % TENSORS[name].element_size() == 0


def test_unusual_tensors_are_refused() -> None:
    with pytest.raises(PackagingError, match=r"'z' is torch\.complex128"):
        tensors_bytes({"z": torch.zeros(1, dtype=torch.complex128)})
    with pytest.raises(PackagingError, match=r"'s' is .*sparse"):
        tensors_bytes({"s": torch.eye(2).to_sparse()})
