"""The tensors that a package holds as data: weights, example frame, reference outputs."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from nequip_core.archive.format import (
    EXAMPLE_FRAME_MEMBER,
    METADATA_MEMBER,
    REFERENCE_MEMBER,
    WEIGHTS_MEMBER,
)
from nequip_core.archive.tensor_files import read_tensor_headers
from nequip_core.archive.texts import TextError
from nequip_core.errors import FileFormatError
from nequip_core.fields import (
    ATOM_TYPE_KEY,
    CELL_KEY,
    EDGE_CELL_SHIFT_KEY,
    EDGE_INDEX_KEY,
    PBC_KEY,
    POSITIONS_KEY,
)
from nequip_core.tolerances import model_tolerance

if TYPE_CHECKING:
    import torch

    from nequip_core.archive.reader import PackageReader
    from nequip_core.frames import Frame

__all__ = ["read_example_frame", "read_reference", "read_weights"]

_DTYPES = ("float32", "float64")
_FRAMES = ("cluster", "periodic")


def read_weights(package: PackageReader) -> dict[str, torch.Tensor]:
    """Return every parameter and persistent buffer by ``<model>.<state-dict name>``.

    Raises:
        FileFormatError: the package has format 1 or 2, or the weights are damaged.
    """
    _require_format(package, "weights as data")
    tensors, _ = _load(package, WEIGHTS_MEMBER)
    models = {f"{name}." for name in package.metadata["model_names"]}
    for name in tensors:
        if not name.startswith(tuple(models)):
            raise _fault(package, WEIGHTS_MEMBER, f"has {name[:80]!r}, which is of no model")
    return tensors


def read_example_frame(package: PackageReader) -> Frame:
    """Return the example frame; of formats 1 and 2 one made from type names and cutoff.

    Raises:
        FileFormatError: it is damaged, or types or cutoff are not told.
    """
    if package.format_version >= 3:
        frame, _ = _load(package, EXAMPLE_FRAME_MEMBER)
        _check_frame(package, EXAMPLE_FRAME_MEMBER, frame)
        return frame
    from nequip_core.synthetic import synthetic_frame

    r_max = package.r_max
    if r_max is None:
        raise FileFormatError(
            f"'{METADATA_MEMBER}' and config of '{package.path}' do not tell the cutoff radius, "
            "so no frame can be made for its models"
        )
    return synthetic_frame(package.type_names, r_max)


def read_reference(package: PackageReader) -> dict[str, Any]:
    """Return frames, outputs of each model, and tolerances; see `PackageReader.reference`.

    Raises:
        FileFormatError: the package has format 1 or 2, or the reference is damaged.
    """
    _require_format(package, "reference outputs")
    tensors, texts = _load(package, REFERENCE_MEMBER)
    frames: dict[str, Frame] = {}
    outputs: dict[str, dict[str, Frame]] = {}
    for name, value in tensors.items():
        kind, *parts = name.split("/")
        if kind == "input" and len(parts) == 2:
            frames.setdefault(parts[0], {})[parts[1]] = value
        elif kind == "output" and len(parts) == 3:
            outputs.setdefault(parts[0], {}).setdefault(parts[1], {})[parts[2]] = value
        else:
            raise _fault(package, REFERENCE_MEMBER, f"has the unknown name {name[:80]!r}")
    _check_reference(package, frames, outputs)
    tolerances = {dtype: _tolerance(package, texts, dtype) for dtype in _DTYPES}
    return {"frames": frames, "outputs": outputs, "tolerances": tolerances}


def _check_reference(
    package: PackageReader, frames: dict[str, Frame], outputs: dict[str, dict[str, Frame]]
) -> None:
    for name in _FRAMES:
        if name not in frames:
            raise _fault(package, REFERENCE_MEMBER, f"has no frame '{name}'")
    for frame in frames.values():
        _check_frame(package, REFERENCE_MEMBER, frame)
    models = package.metadata["model_names"]
    if set(outputs) != set(models) or any(set(found) != set(frames) for found in outputs.values()):
        raise _fault(
            package, REFERENCE_MEMBER, f"must have outputs of {sorted(models)} for every frame"
        )


def _tolerance(package: PackageReader, texts: dict[str, str], dtype: str) -> float:
    """Return what the file states, or this version's own tolerance where that is smaller."""
    key = f"tolerance_{dtype}"
    try:
        stated = float(texts[key])
    except (KeyError, ValueError):
        stated = math.nan
    if not stated > 0.0:
        raise _fault(package, REFERENCE_MEMBER, f"must state '{key}', a positive number")
    return min(stated, model_tolerance(dtype))


def _load(package: PackageReader, member: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a safetensors member, and the texts of its header."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = package.read_bytes(member)
    try:
        _, texts = read_tensor_headers(io.BytesIO(content), len(content))
        return load(content), texts
    except (TextError, SafetensorError) as error:
        raise _fault(package, member, str(error).splitlines()[0]) from None


def _check_frame(package: PackageReader, member: str, frame: Frame) -> None:
    """Check shapes, and that indices stay in range, before a model sees the frame."""
    import torch

    fields = (POSITIONS_KEY, CELL_KEY, PBC_KEY, ATOM_TYPE_KEY, EDGE_INDEX_KEY, EDGE_CELL_SHIFT_KEY)
    for key in fields:
        if key not in frame:
            raise _fault(package, member, f"has a frame without '{key}'")
    positions, types, edges = frame[POSITIONS_KEY], frame[ATOM_TYPE_KEY], frame[EDGE_INDEX_KEY]
    atoms = len(positions) if positions.dim() else 0
    shapes = {
        POSITIONS_KEY: (atoms, 3),
        CELL_KEY: (1, 3, 3),
        PBC_KEY: (1, 3),
        ATOM_TYPE_KEY: (atoms,),
        EDGE_INDEX_KEY: (2, edges.shape[-1] if edges.dim() else 0),
        EDGE_CELL_SHIFT_KEY: (edges.shape[-1] if edges.dim() else 0, 3),
    }
    for key, shape in shapes.items():
        if tuple(frame[key].shape) != shape:
            raise _fault(
                package, member, f"has '{key}' of shape {tuple(frame[key].shape)}, not {shape}"
            )
    count = len(package.type_names)
    for key, value, limit in ((ATOM_TYPE_KEY, types, count), (EDGE_INDEX_KEY, edges, atoms)):
        if value.dtype != torch.int64 or not bool(((value >= 0) & (value < limit)).all()):
            raise _fault(package, member, f"has '{key}' that are no indices below {limit}")


def _require_format(package: PackageReader, what: str) -> None:
    if package.format_version < 3:
        raise FileFormatError(
            f"'{package.path}' has format {package.format_version}, which holds no {what}: "
            "'nequip-package upgrade' writes them"
        )


def _fault(package: PackageReader, member: str, text: str) -> FileFormatError:
    return FileFormatError(f"'{member}' of '{package.path}' {text}")
