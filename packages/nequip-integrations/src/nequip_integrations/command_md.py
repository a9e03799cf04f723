"""The command ``nequip-md``. torch and ASE are imported only when it computes."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from nequip_integrations._version import __version__
from nequip_integrations.model_arguments import (
    MODEL_HELP,
    add_model_arguments,
    positive_number,
    whole_number,
)
from nequip_integrations.running import require_library, run_interruptibly

__all__ = ["main"]

_DESCRIPTION = """Simulate a structure with a model: dynamics at constant energy (nve), temperature
(nvt) or pressure (npt), relaxation (relax), equation of state (eos), elastic constants (elastic),
phonons (phonons). A killed run goes on with --resume where it was, with the same trajectory."""

_DYNAMICS = ("nve", "nvt", "npt")
_TASKS = (*_DYNAMICS, "relax", "eos", "elastic", "phonons")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 2 for wrong usage.

    Args:
        args: command-line words; default those of the process.
    """
    parser = _parser()
    options = parser.parse_intermixed_args(None if args is None else list(args))
    if options.overwrite and options.resume:
        parser.error("give --resume or --overwrite")
    if options.resume and options.task not in _DYNAMICS:
        parser.error(f"--resume is for {', '.join(_DYNAMICS)}")

    def body() -> int:
        require_library("ase", "nequip-md", "ase")
        require_library("rich", "nequip-md", "ase")
        if options.task == "phonons":
            require_library("phonopy", "nequip-md ... phonons", "phonons")
        name = "molecular_dynamics" if options.task in _DYNAMICS else options.task
        tasks = importlib.import_module("nequip_integrations.dynamics.tasks")
        code: int = getattr(tasks, name)(options)
        return code

    return run_interruptibly(body)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nequip-md", description=_DESCRIPTION)
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL_HELP)
    add("structure", metavar="STRUCTURE", help="a file in any format of ASE; its first structure")
    add("task", choices=_TASKS, nargs="?", default="nve", help="what to do (default: nve)")
    add(
        "-o",
        "--output",
        metavar="PREFIX",
        help="what the names of all files begin with (default: STRUCTURE.TASK in the working "
        "directory)",
    )
    add("--repeat", nargs=3, type=whole_number, metavar="N", help="repeat the structure first")
    add("--overwrite", action="store_true", help="start anew where there is a run")
    add("--resume", action="store_true", help="go on with the run of these names")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    _add_dynamics(parser.add_argument_group("dynamics: nve, nvt, npt"))
    _add_statics(parser.add_argument_group("relax, eos, elastic, phonons"))
    add_model_arguments(parser)
    return parser


def _add_dynamics(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--steps", type=whole_number, default=1000, help="number of steps (default: 1000)")
    add("--timestep", type=positive_number, default=1.0, metavar="FS", help="fs (default: 1)")
    add(
        "--temperature",
        type=positive_number,
        default=300.0,
        metavar="K",
        help="of velocities that are drawn, and of nvt and npt (default: 300)",
    )
    add("--pressure", type=float, default=0.0, metavar="GPA", help="of npt and --cell (default: 0)")
    add(
        "--thermostat",
        choices=("nose-hoover", "langevin"),
        default="nose-hoover",
        help="of nvt (default: %(default)s chain)",
    )
    add(
        "--damping",
        type=positive_number,
        default=100.0,
        metavar="FS",
        help="time constant of the thermostat (default: 100)",
    )
    add(
        "--barostat-damping",
        type=positive_number,
        default=1000.0,
        metavar="FS",
        help="time constant of the barostat (default: 1000)",
    )
    add(
        "--every",
        type=whole_number,
        default=10,
        metavar="N",
        help="steps between two structures of the trajectory (default: 10)",
    )
    add("--seed", type=int, default=0, help="of velocities and of Langevin's noise (default: 0)")


def _add_statics(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--fmax",
        type=positive_number,
        default=0.01,
        metavar="F",
        help="largest force of a relaxed structure, eV/Angstrom (default: 0.01)",
    )
    add(
        "--max-steps",
        type=whole_number,
        default=500,
        metavar="N",
        help="steps of a relaxation, at most (default: 500)",
    )
    add("--cell", action="store_true", help="relax: the cell, too")
    add(
        "--strain",
        type=positive_number,
        help="eos: of each length (default: 0.04); elastic: of the cell (default: 0.005)",
    )
    add("--points", type=int, default=9, help="eos: number of volumes (default: 9)")
    add("--as-it-is", action="store_true", help="elastic, phonons: do not relax first")
    add(
        "--supercell",
        nargs=3,
        type=whole_number,
        metavar="N",
        help="phonons: of the displacements (default: 10 Angstrom in each direction)",
    )
    add(
        "--displacement",
        type=positive_number,
        default=0.01,
        metavar="A",
        help="phonons: Angstrom (default: 0.01)",
    )


if __name__ == "__main__":
    sys.exit(main())
