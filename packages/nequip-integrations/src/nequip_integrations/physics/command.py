"""``nequip-evaluate --physics``: grade a model, and write the report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_core.errors import DataError
from nequip_core.files import atomic_path, require_output_suffix
from nequip_core.saved_model import is_reference
from nequip_core.terminal import visible
from nequip_integrations._version import __version__
from nequip_integrations.model_arguments import calculator_arguments, open_calculator
from nequip_integrations.running import require_library

if TYPE_CHECKING:
    from nequip_integrations.physics.lines import Line

__all__ = ["grade_model", "write_report"]

_SIZES = (100, 400, 1600)  # atoms
_SECONDS = 3.0  # of measuring a size


def grade_model(options: argparse.Namespace) -> int:
    """Grade the model of a command line; return 0 if every line passes, 1 if one fails.

    Raises:
        NequIPError: the model or the structure cannot be opened, or a file not be written.
    """
    report = require_output_suffix(
        options.report or _default_name(options.model), ".html", "report"
    )
    numbers = None
    if options.json:
        numbers = require_output_suffix(options.json, ".json", "file of numbers")
    require_library("ase", "nequip-evaluate --physics", "ase")
    require_library("rich", "nequip-evaluate --physics", "ase")
    from nequip_integrations.physics.grading import grade
    from nequip_integrations.physics.subject import crystal, subject_of
    from nequip_integrations.progress import CommandProgress
    from nequip_integrations.structure_files import first_structure

    given = first_structure(options.files[0]) if options.files else None
    calculator = open_calculator(options.model, options)
    subject = subject_of(calculator)
    atoms = crystal(subject) if given is None else given
    unknown = sorted(set(atoms.get_chemical_symbols()) - set(subject.symbols))
    if unknown:
        raise DataError(
            f"'{options.files[0]}' has the species {', '.join(unknown)}, the model knows "
            f"{', '.join(subject.symbols)}"
        )
    lines: list[Line] = []
    with CommandProgress("physics", None) as progress:

        def show(number: int, count: int, name: str) -> None:
            progress.advance(number, f"{number + 1} of {count}: {name}")

        for line in grade(subject, atoms, options.steps, show):
            lines.append(line)
            _print(line)
        if not options.no_cost:
            progress.advance(0, "time and memory against size")
            for line in _cost(options, atoms):
                lines.append(line)
                _print(line)
    facts = {
        "model": options.model,
        "way": calculator.way,
        "precision": subject.model_dtype,
        "species": ", ".join(subject.symbols),
        "cutoff": f"{subject.cutoff:g} Å",
        "structure": _described(atoms, options.files),
        "made with": f"nequip-integrations {__version__}",
    }
    write_report(report, numbers, Path(options.model).name, facts, lines)
    failed = sum(not line.passes for line in lines)
    print(f"{len(lines) - failed} of {len(lines)} lines pass; report: {report}")
    return 1 if failed else 0


def write_report(
    report: Path,
    numbers: Path | None,
    title: str,
    facts: dict[str, str],
    lines: Sequence[Line],
) -> None:
    """Write the page and, if asked for, the numbers as JSON.

    Raises:
        MissingFileError: a folder cannot be written to.
    """
    from nequip_integrations import drawing
    from nequip_integrations.physics.page import NO_PLOTS, page

    with atomic_path(report) as path:
        path.write_text(page(title, facts, lines), encoding="utf-8")
    if not drawing.available():
        print(f"note: {NO_PLOTS}", file=sys.stderr)
    if numbers is not None:
        content = {
            **facts,
            "passes": all(line.passes for line in lines),
            "lines": [line.as_json() for line in lines],
        }
        with atomic_path(numbers) as path:
            path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _cost(options: argparse.Namespace, atoms: Any) -> list[Line]:
    from nequip_integrations.benchmarking.processes import measured
    from nequip_integrations.benchmarking.structures import repeated
    from nequip_integrations.physics.cost import cost_lines

    arguments = calculator_arguments(options)
    return cost_lines(
        [
            measured(options.model, arguments, structure, _SECONDS)
            for structure in repeated(atoms, _SIZES)
        ]
    )


def _print(line: Line) -> None:
    mark = "pass" if line.passes else "FAIL"
    bound = f"(bound {line.bound:.2g}) {line.unit}".rstrip()
    print(f"{mark}  {line.name:<18} {line.value:9.2g} {bound}", flush=True)
    if line.value != line.value and line.detail:
        print(f"      {visible(line.detail)}", flush=True)


def _default_name(model: str) -> str:
    name = model.partition(":")[2] if is_reference(model) else Path(model).name
    for suffix in (".nequip.zip", ".nequip.pt2", ".nequip.pth", ".ckpt"):
        name = name.removesuffix(suffix)
    return name.replace("/", "-").replace(":", "-") + ".physics.html"


def _described(atoms: Any, files: Sequence[str]) -> str:
    origin = files[0] if files else "made up"
    return f"{origin}: {atoms.get_chemical_formula()}, {len(atoms)} atoms"
