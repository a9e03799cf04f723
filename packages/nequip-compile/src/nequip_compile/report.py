"""The report of a comparison with the eager model, kept in the compiled file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nequip_compile._version import __version__
from nequip_compile.verify import FieldComparison, Reference
from nequip_core.compiled_metadata import REPORT_NAME
from nequip_core.errors import CompileError
from nequip_core.fields import EDGE_INDEX_KEY, POSITIONS_KEY

__all__ = ["add_report", "verification_report"]


def verification_report(
    comparisons: Sequence[FieldComparison],
    references: Mapping[str, Reference],
    device: torch.device,
) -> dict[str, Any]:
    """Return what was compared and how well it agreed, as plain data.

    Keys: ``device``, versions, ``frames`` (description -> atoms and edges), ``fields`` (name ->
    ``max_error``, ``allowed``, ``scale`` in the field's unit, ``worst_frame``, ``passed`` and, for
    float32 models, ``float64_error``).
    """
    return {
        "device": str(device),
        "torch": torch.__version__,
        "nequip-compile": __version__,
        "frames": {
            title: {
                "atoms": _size(reference, POSITIONS_KEY, 0),
                "edges": _size(reference, EDGE_INDEX_KEY, 1),
            }
            for title, reference in references.items()
        },
        "fields": {
            one.field: {
                "max_error": one.max_error,
                "allowed": one.allowed,
                "scale": one.scale,
                "float64_error": one.float64_error,
                "worst_frame": one.worst,
                "passed": one.passed,
            }
            for one in comparisons
        },
    }


def _size(reference: Reference, name: str, axis: int) -> int | None:
    return reference.inputs[name].shape[axis] if name in reference.inputs else None


def add_report(path: Path, report: Mapping[str, Any]) -> None:
    """Append the report to a compiled file, where torch keeps further files.

    Raises:
        CompileError: the file cannot be written, for instance because the disk is full.
    """
    text = json.dumps(report, indent=1) + "\n"
    try:
        with zipfile.ZipFile(path, "a") as archive:
            top = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{top}/extra/{REPORT_NAME}", text)
    except OSError as error:
        raise CompileError(f"cannot write to '{path.name}': {error}; is the disk full?") from error
