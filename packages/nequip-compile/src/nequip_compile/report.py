"""The report of a verification: as a table to read, and as plain data kept in the compiled file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nequip_compile._version import __version__
from nequip_compile.physics import STATEMENTS, Physics
from nequip_compile.verify import FieldComparison, Reference
from nequip_core.compiled_metadata import REPORT_NAME
from nequip_core.errors import CompileError
from nequip_core.fields import EDGE_INDEX_KEY, POSITIONS_KEY

__all__ = ["add_report", "verification_report", "verification_table"]


def verification_report(
    comparisons: Sequence[FieldComparison],
    references: Mapping[str, Reference],
    physics: Physics,
    device: str | torch.device,
) -> dict[str, Any]:
    """Return what was checked and how well it holds, as plain data.

    Keys: ``device``, versions, ``frames`` (description -> atoms and edges), ``fields`` (name ->
    ``max_error``, ``allowed``, ``scale`` in the field's unit, ``worst_frame``, ``passed`` and, for
    float32 models, ``float64_error``), ``physics`` with ``checks`` (name -> ``statement``,
    ``max_error``, ``allowed``, ``scale``, ``uncertainty``, ``worst``, ``passed``), ``not_checked``
    (name -> reason), ``frames`` (description -> atoms) and ``evaluations``.
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
        "physics": {
            "checks": {
                one.name: {
                    "statement": STATEMENTS[one.name],
                    **{key: value for key, value in asdict(one).items() if key != "name"},
                    "passed": one.passed,
                }
                for one in physics.checks
            },
            "not_checked": dict(physics.not_checked),
            "frames": dict(physics.frames),
            "evaluations": physics.evaluations,
        },
    }


def _size(reference: Reference, name: str, axis: int) -> int | None:
    return reference.inputs[name].shape[axis] if name in reference.inputs else None


def verification_table(comparisons: Sequence[FieldComparison], physics: Physics) -> str:
    """Return what was checked as lines of text."""
    lines = []
    if comparisons:
        lines += [f"{'field':<30}{'max error':>10}{'in float64':>12}{'allowed':>10}{'scale':>10}"]
    lines += [
        f"{one.field:<30}{one.max_error:>10.1e}{_number(one.float64_error):>12}"
        f"{one.allowed:>10.1e}{one.scale:>10.1e}  {'ok' if one.passed else 'FAILED'}"
        for one in comparisons
    ]
    if physics.checks:
        lines += [f"{'by itself':<30}{'max error':>10}{'':>12}{'allowed':>10}{'scale':>10}"]
    lines += [
        f"{STATEMENTS[one.name]:<30}{one.max_error:>10.1e}{'':>12}{one.allowed:>10.1e}"
        f"{one.scale:>10.1e}  {'holds' if one.passed else 'DOES NOT HOLD'}"
        for one in physics.checks
    ]
    lines += [
        f"{STATEMENTS[name]:<30}not checked: {reason}"
        for name, reason in physics.not_checked.items()
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


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
