"""The command ``nequip-compile``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nequip_compile._version import __version__
from nequip_core.command_line import run_command
from nequip_core.errors import closest
from nequip_core.files import require_file, require_output_suffix
from nequip_core.plugins import COMPILE_TARGETS, import_extensions, load_plugin, plugin_names

if TYPE_CHECKING:
    from nequip_core.compile_targets import CompileTarget

__all__ = ["main"]

_MODES = ("aotinductor",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 2 for wrong usage.

    Args:
        arguments: command-line words; default those of the process.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    _check_target(parser, options)
    return run_command(lambda: _compile(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nequip-compile",
        description="Compile a saved model for a simulation engine. The compiled model is compared "
        "with the original on several structures before its file appears.",
    )
    parser.add_argument("input_path", help="a checkpoint (.ckpt) or a package (.nequip.zip)")
    parser.add_argument("output_path", help="the compiled model to write (.nequip.pt2)")
    parser.add_argument(
        "--mode", type=_mode, default=_MODES[0], help="how to compile: aotinductor (default)"
    )
    parser.add_argument(
        "--device", default="cpu", help="where it shall run: cpu (default), cuda, ..."
    )
    parser.add_argument(
        "--model", default="sole_model", help="which model of the file (default: %(default)s)"
    )
    parser.add_argument(
        "--target",
        help=f"the engine it is for, one of: {', '.join(plugin_names(COMPILE_TARGETS))}",
    )
    parser.add_argument(
        "--input-fields", nargs="+", metavar="FIELD", help="in place of --target: input fields"
    )
    parser.add_argument(
        "--output-fields", nargs="+", metavar="FIELD", help="in place of --target: output fields"
    )
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="consent to running the code that the file carries: only for files whose origin you "
        "trust (look first: nequip-package audit FILE)",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _mode(text: str) -> str:
    if text == "torchscript":
        raise argparse.ArgumentTypeError(
            "torchscript is not offered by this version; use aotinductor"
        )
    if text not in _MODES:
        raise argparse.ArgumentTypeError(f"'{text}' is not a mode; use aotinductor")
    return text


def _check_target(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a usage error unless the options say exactly one target."""
    fields = (options.input_fields, options.output_fields)
    if options.target is not None:
        if any(fields):
            parser.error("give either --target, or --input-fields and --output-fields")
        known = plugin_names(COMPILE_TARGETS)
        if options.target not in known:
            known = sorted({*known, *_targets_of_extensions()})
        if options.target not in known:
            parser.error(
                f"--target must be one of {', '.join(known)}; got '{options.target}'"
                f"{closest(options.target, known)}"
            )
    elif not all(fields):
        parser.error("give --target, or both --input-fields and --output-fields")


def _compile(options: argparse.Namespace) -> None:
    from nequip_core.compiled import COMPILED_SUFFIX

    source = require_file(options.input_path, "saved model")
    output = require_output_suffix(options.output_path, COMPILED_SUFFIX, "compiled model")
    start = time.perf_counter()
    # From here on torch is needed, which takes seconds to import.
    from nequip_compile.aotinductor import compile_model
    from nequip_compile.progress import stage
    from nequip_core.saved_model import load_saved_model, select_model

    with stage(f"reading {source}"):
        saved = load_saved_model(source, trust_code=options.trust_code or None)
        model = select_model(saved, options.model)
    compile_model(model, output, _target(options), options.device)
    _report(output, time.perf_counter() - start)


def _target(options: argparse.Namespace) -> CompileTarget:
    from nequip_core.compile_targets import custom_target

    if options.target is None:
        return custom_target(tuple(options.input_fields), tuple(options.output_fields))
    if options.target in plugin_names(COMPILE_TARGETS):
        return load_plugin(COMPILE_TARGETS, options.target)
    return _targets_of_extensions()[options.target]


def _targets_of_extensions() -> dict[str, CompileTarget]:
    """Return what extension packages register when imported, which may need torch."""
    import_extensions()
    from nequip_core.compile_registration import registered_targets

    return registered_targets()


def _report(output: Path, seconds: float) -> None:
    size = output.stat().st_size / 1e6
    print(f"wrote {output} ({size:.1f} MB) in {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
