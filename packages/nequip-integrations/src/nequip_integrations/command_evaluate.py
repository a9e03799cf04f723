"""The command ``nequip-evaluate``. torch and ASE are imported only when it computes."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from nequip_core.files import atomic_path, require_output_suffix
from nequip_integrations._version import __version__
from nequip_integrations.model_arguments import (
    MODEL_HELP,
    add_model_arguments,
    calculator_arguments,
    whole_number,
)
from nequip_integrations.running import require_library, run_interruptibly

__all__ = ["main"]

_DESCRIPTION = """Predict the structures of files with a model, and print the errors against their
labels, for each chemical type and each config_type. Files of any length are read a batch at a time.
With --physics, grade what a model must obey whatever it was trained on: see nequip-evaluate
--physics MODEL [STRUCTURE]."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 2 for wrong usage.

    With ``--physics`` the code is 1 as well where a line of the report fails.

    Args:
        args: command-line words; default those of the process.
    """
    parser = _parser()
    options = parser.parse_intermixed_args(None if args is None else list(args))
    _check(parser, options)
    if options.physics:
        from nequip_integrations.physics.command import grade_model

        return run_interruptibly(lambda: grade_model(options))
    return run_interruptibly(lambda: _evaluate(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nequip-evaluate", description=_DESCRIPTION)
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL_HELP)
    add(
        "files",
        nargs="*",
        metavar="FILE",
        help="structures in any format of ASE; with --physics one file, of which the first "
        "structure is taken, or none for a made-up crystal",
    )
    add("-o", "--output", metavar="FILE", help="structures with predictions, .xyz or .extxyz")
    add("--against", metavar="MODEL2", help="a second model to compare with")
    add("--json", metavar="FILE", help="the numbers for machines, .json")
    add("--plot", metavar="FILE", help="parity plots, .png (needs matplotlib)")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    group = parser.add_argument_group("the structures").add_argument
    group("--energy-key", metavar="KEY", help="key of the energy label (default: ASE's energy)")
    group("--forces-key", metavar="KEY", help="key of the forces label (default: ASE's forces)")
    group("--stress-key", metavar="KEY", help="key of the stress label (default: ASE's stress)")
    group(
        "--config-type-key",
        default="config_type",
        metavar="KEY",
        help="key in info of the kind of a structure (default: %(default)s)",
    )
    group = parser.add_argument_group("batches").add_argument
    group(
        "--max-edges",
        type=whole_number,
        default=20_000,
        metavar="N",
        help="edges of a batch, which decide how much memory it takes (default: %(default)s)",
    )
    group(
        "--max-structures",
        type=whole_number,
        default=256,
        metavar="N",
        help="structures of a batch (default: %(default)s)",
    )
    group = parser.add_argument_group("physics").add_argument
    group("--physics", action="store_true", help="grade the physics of a model")
    group(
        "--report",
        metavar="FILE",
        help="the page to write, .html (default: MODEL.physics.html in the working directory)",
    )
    group("--steps", type=whole_number, default=500, help="steps of dynamics (default: 500)")
    group(
        "--no-cost",
        action="store_true",
        help="leave out speed and memory against size, which take the longest",
    )
    add_model_arguments(parser)
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a usage error where the arguments do not fit together."""
    if options.physics:
        if len(options.files) > 1:
            parser.error("--physics takes one file of a structure, or none")
        for name in ("output", "against", "plot"):
            if getattr(options, name) is not None:
                parser.error(f"--{name} does not go with --physics")
    elif not options.files:
        parser.error("give files of structures (or --physics)")
    elif options.report is not None:
        parser.error("--report goes with --physics")


def _evaluate(options: argparse.Namespace) -> None:
    outputs = _outputs(options)
    require_library("ase", "nequip-evaluate", "ase")
    require_library("rich", "nequip-evaluate", "ase")
    if options.plot:
        from nequip_integrations.drawing import require_figures

        require_figures("--plot")
    from nequip_integrations.evaluation.evaluate import DIFFERENCE
    from nequip_integrations.evaluation.prediction import BatchedModel
    from nequip_integrations.evaluation.reading import StructureFiles
    from nequip_integrations.evaluation.results import as_json, parity_figure, table

    files = StructureFiles(options.files, _keys(options), options.config_type_key)
    arguments = calculator_arguments(options)
    sources = [options.model, *([options.against] if options.against else [])]
    models = [BatchedModel(source, **arguments) for source in sources]
    found = _run(options, models, files, outputs)
    print(
        f"{found.structures} structures, {found.atoms} atoms in {found.seconds:.1f} s, "
        f"{found.batches} batches"
    )
    _note_labels(options, found.labelled, found.structures)
    titles = {
        "model": f"{options.model} against labels",
        "against": f"{options.against} against labels",
        DIFFERENCE: f"{options.model} against {options.against}",
    }
    for errors in found.comparisons:
        if text := table(errors):
            print(f"\n{titles[errors.name]}\n{text}")
    if "json" in outputs:
        content = as_json(found, models, [str(file) for file in files.files])
        with atomic_path(outputs["json"]) as path:
            path.write_text(json.dumps(content, indent=1) + "\n")
    if "plot" in outputs:
        image = parity_figure(found)
        if image is None:
            print("note: nothing to plot, because there are no labels", file=sys.stderr)
        else:
            with atomic_path(outputs["plot"]) as path:
                path.write_bytes(image)


def _outputs(options: argparse.Namespace) -> dict[str, Path]:
    """Return the files to write by option, before anything is computed.

    Raises:
        FileFormatError: a name has another ending than its format.
        MissingFileError: a folder cannot be written to.
    """
    outputs = {}
    if options.output:
        suffix = ".extxyz" if options.output.endswith(".extxyz") else ".xyz"
        outputs["output"] = require_output_suffix(options.output, suffix, "file of structures")
    if options.json:
        outputs["json"] = require_output_suffix(options.json, ".json", "file of numbers")
    if options.plot:
        outputs["plot"] = require_output_suffix(options.plot, ".png", "plot")
    return outputs


def _keys(options: argparse.Namespace) -> dict[str, str]:
    from nequip_core.fields import FORCE_KEY, STRESS_KEY, TOTAL_ENERGY_KEY

    given = {
        TOTAL_ENERGY_KEY: options.energy_key,
        FORCE_KEY: options.forces_key,
        STRESS_KEY: options.stress_key,
    }
    return {field: key for field, key in given.items() if key}


def _run(options: argparse.Namespace, models: Any, files: Any, outputs: dict[str, Path]) -> Any:
    from nequip_integrations.evaluation.evaluate import Evaluation, evaluate
    from nequip_integrations.progress import CommandProgress

    with contextlib.ExitStack() as stack:
        stream: IO[str] | None = None
        if "output" in outputs:
            path = stack.enter_context(atomic_path(outputs["output"]))
            stream = stack.enter_context(path.open("w"))
        progress = stack.enter_context(CommandProgress("evaluate", files.size))

        def report(found: Evaluation) -> None:
            speed = found.structures / max(found.seconds, 1e-9)
            note = f"{found.structures} structures, {speed:.0f}/s"
            progress.advance(files.position or 0, note)

        return evaluate(models, files, options.max_edges, options.max_structures, stream, report)


def _note_labels(options: argparse.Namespace, labelled: dict[str, int], structures: int) -> None:
    """Say which labels are missing where they were asked for, or in part."""
    given = _keys(options)
    for field, count in labelled.items():
        name = given.get(field, field)
        if count == 0 and field in given:
            print(f"note: no structure has a label '{name}'", file=sys.stderr)
        elif 0 < count < structures:
            line = f"note: {count} of {structures} structures have a label '{name}'"
            print(line, file=sys.stderr)
    if not any(labelled.values()):
        print("note: no labels, so no errors; --energy-key names another key", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
