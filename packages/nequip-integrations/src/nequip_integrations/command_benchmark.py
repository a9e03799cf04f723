"""The command ``nequip-benchmark``. torch and ASE are imported only when it computes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nequip_core.files import atomic_path, require_output_suffix
from nequip_integrations._version import __version__
from nequip_integrations.model_arguments import (
    MODEL_HELP,
    add_model_arguments,
    calculator_arguments,
    open_calculator,
    positive_number,
    whole_number,
)
from nequip_integrations.running import require_library, run_interruptibly

if TYPE_CHECKING:
    from nequip_integrations.benchmarking.processes import Measurement

__all__ = ["main"]

_DESCRIPTION = """Measure the time of a step and the memory of a model against the number of atoms:
as it is (eager), compiled, and with kernels, where these are installed. Each size runs in a process
of its own, so that its peak of memory is its own."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 2 for wrong usage.

    Args:
        args: command-line words; default those of the process.
    """
    parser = _parser()
    options = parser.parse_intermixed_args(None if args is None else list(args))
    return run_interruptibly(lambda: _benchmark(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nequip-benchmark", description=_DESCRIPTION)
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL_HELP)
    add(
        "structure",
        metavar="STRUCTURE",
        nargs="?",
        help="what is repeated, in any format of ASE (default: a made-up crystal)",
    )
    add(
        "--sizes",
        nargs="+",
        type=whole_number,
        default=[64, 256, 1024, 4096],
        metavar="N",
        help="numbers of atoms, reached or exceeded (default: 64 256 1024 4096)",
    )
    add(
        "--ways",
        nargs="+",
        choices=("eager", "compiled", "kernels", "compiled-kernels"),
        help="how to run the model (default: all that can be, for a compiled file as it is)",
    )
    add(
        "--seconds",
        type=positive_number,
        default=5.0,
        help="how long each is measured, after warming up (default: 5)",
    )
    add("--json", metavar="FILE", help="the numbers for machines, .json")
    add("--plot", metavar="FILE", help="a plot, .png (needs matplotlib)")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    add_model_arguments(parser)
    return parser


def _benchmark(options: argparse.Namespace) -> int:
    outputs = {}
    if options.json:
        outputs["json"] = require_output_suffix(options.json, ".json", "file of numbers")
    if options.plot:
        outputs["plot"] = require_output_suffix(options.plot, ".png", "plot")
    require_library("ase", "nequip-benchmark", "ase")
    require_library("rich", "nequip-benchmark", "ase")
    if options.plot:
        from nequip_integrations.drawing import require_figures

        require_figures("--plot")
    from nequip_integrations.benchmarking.results import figure, machine, table
    from nequip_integrations.benchmarking.structures import repeated
    from nequip_integrations.benchmarking.ways import ways_of
    from nequip_integrations.physics.subject import crystal, subject_of
    from nequip_integrations.structure_files import first_structure

    ways = ways_of(options.model, calculator_arguments(options), options.ways)
    if options.structure:
        atoms = first_structure(options.structure)
    else:
        # Opened once here, for its species; a model that cannot be opened ends the command.
        options.eager, options.require_compiled = True, False
        atoms = crystal(subject_of(open_calculator(options.model, options)), 1)
    found = _measured(options, ways, repeated(atoms, options.sizes))
    facts = machine(options.device)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(table(found))
    if "json" in outputs:
        content = {
            "model": options.model,
            "machine": facts,
            "ways": {way: [one.as_json() for one in every] for way, every in found.items()},
        }
        with atomic_path(outputs["json"]) as path:
            path.write_text(json.dumps(content, indent=1) + "\n")
    if "plot" in outputs:
        with atomic_path(outputs["plot"]) as path:
            path.write_bytes(figure(found))
    worked = any(one.failure is None for every in found.values() for one in every)
    return 0 if worked else 1


def _measured(
    options: argparse.Namespace, ways: dict[str, dict[str, Any]], structures: list[Any]
) -> dict[str, list[Measurement]]:
    """Return the measurements by way; after the first that fails, larger ones are left out."""
    from nequip_integrations.benchmarking.processes import measured
    from nequip_integrations.progress import CommandProgress

    found: dict[str, list[Measurement]] = {way: [] for way in ways}
    with CommandProgress("benchmark", len(ways) * len(structures)) as progress:
        for number, (way, arguments) in enumerate(ways.items()):
            for index, atoms in enumerate(structures):
                done = number * len(structures) + index
                progress.advance(done, f"{way}, {len(atoms)} atoms")
                found[way].append(measured(options.model, arguments, atoms, options.seconds))
                if found[way][-1].failure is not None:
                    break
    return found


if __name__ == "__main__":
    sys.exit(main())
