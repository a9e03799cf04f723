"""``nequip-ipi``: computes energies and forces for i-PI over a socket."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nequip_core.command_line import run_command
from nequip_core.errors import ConfigError

__all__ = ["main"]

_STOP_FILE = "EXIT"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.where:
        print(Path(__file__).with_name("ipi.py"))
        return 0
    if options.model is None or options.structure is None:
        parser.error("the model and the structure file are needed")
    return run_command(lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nequip-ipi",
        description="Compute energies, forces and virials for i-PI, which must be running already.",
        epilog="If the model fails, the command says why, writes a file EXIT into the working "
        "directory, and ends; i-PI, started in the same directory, then stops and keeps a RESTART "
        "file.",
    )
    parser.add_argument("model", nargs="?", help="package, checkpoint, compiled file or reference")
    parser.add_argument(
        "structure", nargs="?", help="file with the species in i-PI's order of atoms: .xyz, .pdb"
    )
    parser.add_argument("--address", default="localhost", help="as in i-PI's input (localhost)")
    parser.add_argument("--port", type=int, default=31415, help="as in i-PI's input (31415)")
    parser.add_argument("--unix", action="store_true", help="Unix socket; --address is its name")
    parser.add_argument(
        "--sockets-prefix",
        default="/tmp/ipi_",  # noqa: S108  i-PI's own default
        help="of Unix sockets (/tmp/ipi_)",
    )
    parser.add_argument("--device", default="cpu", help="where to run (cpu)")
    parser.add_argument("--not-periodic", action="store_true", help="molecules; there is no virial")
    parser.add_argument(
        "--species",
        action="append",
        default=[],
        metavar="SYMBOL=TYPE",
        help="type of a species, where type names are not chemical symbols; may be repeated",
    )
    parser.add_argument("--energy-units-to-eV", type=float, dest="energy")
    parser.add_argument("--length-units-to-A", type=float, dest="length")
    parser.add_argument("--no-compile", action="store_true", help="run the model as it is")
    parser.add_argument("--trust-code", action="store_true", help="run the code the file carries")
    parser.add_argument("--where", action="store_true", help="print the path for <ffdirect>, stop")
    return parser


def _run(options: argparse.Namespace) -> None:
    from nequip_integrations.ipi import NequIPDriver
    from nequip_integrations.ipi_socket import connected, serve

    driver = NequIPDriver(
        options.model,
        options.structure,
        options.device,
        periodic=not options.not_periodic,
        energy_units_to_eV=options.energy,
        length_units_to_A=options.length,
        chemical_species_to_atom_type_map=_species(options.species),
        compile=not options.no_compile,
        trust_code=True if options.trust_code else None,
    )
    print(driver.way, file=sys.stderr)
    address = f"{options.sockets_prefix}{options.address}" if options.unix else options.address
    with connected(address, None if options.unix else options.port) as connection:
        try:
            computed = serve(connection, driver)
        except Exception:
            # i-PI would wait for another client for ever.
            Path(_STOP_FILE).touch()
            raise
    print(f"i-PI is done: {computed} structures computed", file=sys.stderr)


def _species(entries: Sequence[str]) -> dict[str, str] | None:
    """Return the map of ``SYMBOL=TYPE`` entries, None if there are none.

    Raises:
        ConfigError: one is not of that form.
    """
    found = {}
    for entry in entries:
        symbol, equals, name = entry.partition("=")
        if not (symbol and equals and name):
            raise ConfigError(f"--species takes SYMBOL=TYPE, got '{entry}'")
        found[symbol] = name
    return found or None


if __name__ == "__main__":
    sys.exit(main())
