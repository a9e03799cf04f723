"""Tensors in the safetensors format, written so that equal tensors give equal bytes.

The safetensors library writes the header's ``__metadata__`` in an order that differs from run to
run; here its keys, like the tensors, are in a fixed one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from nequip_core.errors import PackagingError

__all__ = ["tensors_bytes", "write_tensors"]

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_METADATA_KEY = "__metadata__"
_ALIGNMENT = 8


def tensors_bytes(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return the content of a safetensors file.

    Args:
        tensors: by name, on any device, of any shape.
        metadata: text that the header carries.

    Raises:
        PackagingError: a tensor is of a dtype that the format does not have.
    """
    return b"".join([_header(tensors, metadata), *(_data(tensors[n]) for n in _order(tensors))])


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write what `tensors_bytes` returns to a file, one tensor after the other.

    Raises:
        PackagingError: a tensor is of a dtype that the format does not have.
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        file.write(_header(tensors, metadata))
        for name in _order(tensors):
            file.write(_data(tensors[name]))


def _order(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names: wide items first, so that every tensor is aligned; then by name."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _header(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None) -> bytes:
    content: dict[str, object] = {_METADATA_KEY: dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in _order(tensors):
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES or tensor.layout != torch.strided:
            raise PackagingError(
                f"tensor '{name}' is {tensor.dtype}, {tensor.layout}; a package stores dense "
                "tensors of real numbers, integers and truth values"
            )
        size = tensor.numel() * tensor.element_size()
        content[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _data(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous()
    # Bytes whatever the dtype: numpy has no bfloat16.
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()
