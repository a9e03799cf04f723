"""The command ``nequip-compile``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nequip_compile._version import __version__
from nequip_core.command_line import run_command
from nequip_core.errors import CompileError, closest
from nequip_core.files import require_file, require_output_suffix
from nequip_core.plugins import COMPILE_TARGETS, import_extensions, load_plugin, plugin_names

if TYPE_CHECKING:
    import torch

    from nequip_core.compile_targets import CompileTarget
    from nequip_core.frames import Frame

__all__ = ["main"]

_MODES = ("aotinductor", "torchscript")
_DESCRIPTION = """Compile a saved model for a simulation engine. The compiled model is compared with
the original on several structures before its file appears. `nequip-compile info FILE` prints what a
compiled file says about itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for an error, 2 for wrong usage.

    Args:
        arguments: command-line words; default those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["info"]:
        return _inform(words[1:])
    parser = _parser()
    options = parser.parse_args(words)
    _check_target(parser, options)
    _check_mode(parser, options)
    return run_command(lambda: _compile(options))


def _inform(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="nequip-compile info",
        description="Print what a compiled file says about itself. Nothing of it is run.",
    )
    parser.add_argument("path", help="a compiled model (.nequip.pt2 or .nequip.pth)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(words)
    return run_command(lambda: _print_information(Path(options.path), options.json))


def _print_information(path: Path, as_json: bool) -> None:
    from nequip_compile.information import information_json, information_lines

    print(information_json(path) if as_json else "\n".join(information_lines(path)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nequip-compile", description=_DESCRIPTION)
    add = parser.add_argument
    add("input_path", help="a checkpoint (.ckpt) or a package (.nequip.zip)")
    add("output_path", help="the compiled model to write (.nequip.pt2; torchscript: .nequip.pth)")
    add(
        "--mode",
        choices=_MODES,
        default=_MODES[0],
        help="how to compile (default: %(default)s); torchscript is deprecated by torch",
    )
    add("--device", default="cpu", help="where it shall run: cpu (default), cuda, ...")
    add("--model", default="sole_model", help="which model of the file (default: %(default)s)")
    add(
        "--target",
        help=f"the engine it is for, one of: {', '.join(plugin_names(COMPILE_TARGETS))}; "
        "torchscript files fit all of them and need none",
    )
    add("--input-fields", nargs="+", metavar="FIELD", help="in place of --target: input fields")
    add("--output-fields", nargs="+", metavar="FIELD", help="in place of --target: output fields")
    add(
        "--modifiers",
        nargs="+",
        default=[],
        metavar="NAME",
        help="modifiers to apply first, in order (nequip-package info lists those of a model)",
    )
    add(
        "--tf32",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="multiply matrices in TF32 on GPUs, for float32 models (default: no)",
    )
    add(
        "--data-path",
        metavar="FILE",
        help="example data to trace and compare with, besides made-up structures: a TorchScript "
        "module whose state dict holds the fields of one frame",
    )
    add(
        "--inductor-configs",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="options of torch._inductor.config, each of the type of its default",
    )
    add("--constant-fold", action="store_true", help="fold constants when the model is loaded")
    add(
        "--trust-code",
        action="store_true",
        help="consent to running the code that the file carries: only for files whose origin you "
        "trust (look first: nequip-package audit FILE)",
    )
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _check_mode(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a usage error where an option means nothing in the mode."""
    if options.mode == "torchscript" and (options.inductor_configs or options.constant_fold):
        parser.error("--inductor-configs and --constant-fold are for --mode aotinductor")


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
    elif not all(fields) and (any(fields) or options.mode != "torchscript"):
        parser.error("give --target, or both --input-fields and --output-fields")


def _compile(options: argparse.Namespace) -> None:
    from nequip_core.compiled_metadata import AOTINDUCTOR_SUFFIX, TORCHSCRIPT_SUFFIX

    script = options.mode == "torchscript"
    suffix = TORCHSCRIPT_SUFFIX if script else AOTINDUCTOR_SUFFIX
    source = require_file(options.input_path, "saved model")
    output = require_output_suffix(
        options.output_path, suffix, f"compiled model of mode {options.mode}"
    )
    start = time.perf_counter()
    # From here on torch is needed, which takes seconds to import.
    from nequip_compile.progress import stage

    inductor = None if script else _inductor_options(options)
    with stage(f"reading {source}"):
        model = _model(source, options)
    settings = {"tf32": options.tf32, "example": _example(options.data_path, model)}
    target = _target(options)
    try:
        if script or target is None:
            from nequip_compile import torchscript

            torchscript.compile_model(model, output, target, options.device, **settings)
        else:
            from nequip_compile import aotinductor

            aotinductor.compile_model(
                model, output, target, options.device, inductor_options=inductor, **settings
            )
    except CompileError as error:
        raise CompileError(f"{error}{_way_out(model)}") from error
    _report(output, time.perf_counter() - start)


def _way_out(model: torch.nn.Module) -> str:
    """Return what to do with a model that runs code of NequIP's own package, or nothing."""
    # Modules of a package are called <torch_package_0>.nequip.nn..., for instance.
    if ".nequip." not in type(model).__module__:
        return ""
    return (
        "; this model runs NequIP's own code, out of its package: nequip-package convert makes a "
        "package with the same predictions that compiles"
    )


def _inductor_options(options: argparse.Namespace) -> dict[str, Any]:
    from nequip_compile.inductor_options import inductor_options

    return inductor_options(options.inductor_configs, options.constant_fold)


def _model(source: Path, options: argparse.Namespace) -> torch.nn.Module:
    """Return the model to compile, modified."""
    from nequip_compile.modified import modified_model
    from nequip_core.modifiers import only_apply_persistent_modifiers
    from nequip_core.saved_model import load_saved_model, select_model

    # Accelerations that a training used are of its machine: those wanted here are asked for.
    with only_apply_persistent_modifiers():
        saved = load_saved_model(source, trust_code=options.trust_code or None)
    model = select_model(saved, options.model)
    return modified_model(model, options.modifiers, options.device, options.mode)


def _example(path: str | None, model: Any) -> Frame | None:
    if path is None:
        return None
    from nequip_compile.example_data import load_example

    return load_example(path, list(model.type_names), float(model.r_max))


def _target(options: argparse.Namespace) -> CompileTarget | None:
    """Return the target asked for; None for a TorchScript file for all of them."""
    from nequip_core.compile_targets import custom_target

    if options.target is None and options.input_fields is None:
        return None
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
