"""Arguments that say which model a command runs, and how; the same for every command."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nequip_integrations.ase import NequIPCalculator

__all__ = [
    "MODEL_HELP",
    "add_model_arguments",
    "calculator_arguments",
    "open_calculator",
    "positive_number",
    "whole_number",
]

MODEL_HELP = (
    "a package (.nequip.zip), checkpoint (.ckpt), compiled model (.nequip.pt2, .nequip.pth), or "
    "nequip.net:GROUP/MODEL:VERSION"
)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options, in a group of their own."""
    add = parser.add_argument_group("the model").add_argument
    add("--device", default="cpu", help="where to run: cpu (default), cuda, ...")
    add(
        "--model-name",
        default="sole_model",
        metavar="NAME",
        help="which model of the file (default: %(default)s)",
    )
    add(
        "--modifiers",
        nargs="+",
        default=[],
        metavar="NAME",
        help="modifiers to apply, in order, enable_NequIPKernels for instance",
    )
    add(
        "--eager",
        action="store_true",
        help="never compile; the default compiles a saved model once and keeps that, where "
        "nequip-compile is installed",
    )
    add("--require-compiled", action="store_true", help="an error if the model is not compiled")
    add("--tf32", action="store_true", help="multiply matrices in TF32 on GPUs")
    add(
        "--trust-code",
        action="store_true",
        help="consent to running the code that the file carries: only for files whose origin you "
        "trust (look first: nequip-package audit FILE)",
    )
    add(
        "--species",
        nargs="+",
        type=_species,
        metavar="SYMBOL=TYPE",
        help="which type a chemical species is, where type names are not chemical symbols",
    )
    add(
        "--energy-units-to-eV",
        type=positive_number,
        metavar="X",
        help="eV in one energy unit of the model (default: as declared by the file, or 1)",
    )
    add(
        "--length-units-to-A",
        type=positive_number,
        metavar="X",
        help="Angstrom in one length unit of the model (default: as declared by the file, or 1)",
    )


def calculator_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `NequIPCalculator` for these options."""
    return {
        "device": options.device,
        "energy_units_to_eV": options.energy_units_to_eV,
        "length_units_to_A": options.length_units_to_A,
        "chemical_species_to_atom_type_map": dict(options.species) if options.species else None,
        "model_name": options.model_name,
        "modifiers": tuple(options.modifiers),
        "trust_code": options.trust_code or None,
        "allow_tf32": options.tf32,
        "compile": not options.eager,
        "require_compiled": options.require_compiled,
    }


def open_calculator(model: str, options: argparse.Namespace) -> NequIPCalculator:
    """Return the calculator of a model, with these options.

    Raises:
        NequIPError: see `nequip_integrations.ase.NequIPCalculator`.
    """
    from nequip_integrations.ase import NequIPCalculator

    return NequIPCalculator(model, **calculator_arguments(options))


def positive_number(text: str) -> float:
    """Return a positive, finite number, for argparse.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got '{text}'")
    return value


def whole_number(text: str) -> int:
    """Return a whole number from 1 on, for argparse.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got '{text}'")
    return value


def _species(text: str) -> tuple[str, str]:
    symbol, equals, name = text.partition("=")
    if not (symbol and equals and name):
        raise argparse.ArgumentTypeError(f"must be SYMBOL=TYPE, as O=oxygen; got '{text}'")
    return symbol, name
